// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"strings"
)

// What a caller may want to tell apart.
var (
	ErrDown        = errors.New("the cluster is not up")
	ErrInterrupted = errors.New("only pieces of a cluster are there: raising it or taking it down was interrupted")
	ErrNotRoot     = errors.New("network namespaces need root")
)

// UpError says that there is a cluster already.
type UpError struct{ Options Options }

func (e *UpError) Error() string { return "the cluster is up already" }

// BusyError says that another process is raising the cluster or taking it down.
type BusyError struct{}

func (e *BusyError) Error() string { return "another process is raising the cluster or taking it down" }

// ForeignNamespaceError says that a network namespace has the name of one of the cluster's, but is not on its record.
type ForeignNamespaceError struct{ Name string }

func (e *ForeignNamespaceError) Error() string {
	return fmt.Sprintf("network namespace %s exists and is not the cluster's", e.Name)
}

// InsideError says that the process is in one of the network namespaces that it is to take away.
type InsideError struct{ Host string }

func (e *InsideError) Error() string {
	return fmt.Sprintf("this process runs on the cluster's host %s and would end with it", e.Host)
}

// UnknownHostError says that the cluster has no such host.
type UnknownHostError struct {
	Name  string
	Hosts []string
}

func (e *UnknownHostError) Error() string {
	return fmt.Sprintf("no host %q: there are %s", e.Name, strings.Join(e.Hosts, ", "))
}
