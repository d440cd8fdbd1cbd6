// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"testing"

	"xdplb/internal/testenv"
)

// New raises a cluster for one test, which it first moves into namespaces of its own as
// [testenv.Namespace] does; so tests with clusters run side by side. The cluster ends with the test, or with the test's process if that is killed.
func New(tb testing.TB, o Options) *Lab {
	tb.Helper()
	needs := []testenv.Need{testenv.Root, testenv.Command("nsenter")}
	if o.WebServers {
		needs = append(needs, testenv.Command("nginx"))
	}
	testenv.Require(tb, needs...)
	l, err := Private(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := Down(); err != nil {
			tb.Error(err)
		}
		if err := l.Close(); err != nil {
			tb.Error(err)
		}
	})
	return l
}
