// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEveryMapIsOpened compares the maps that are opened with those that are pinned.
func TestEveryMapIsOpened(t *testing.T) {
	t.Parallel()
	spec, err := loadXdplb()
	if err != nil {
		t.Fatal(err)
	}
	var opened []string
	for name := range new(Datapath).byName() {
		opened = append(opened, name)
	}
	pinned := mapNames(spec)
	slices.Sort(opened)
	slices.Sort(pinned)
	if diff := cmp.Diff(pinned, opened); diff != "" {
		t.Errorf("maps (-pinned +opened):\n%s", diff)
	}
}
