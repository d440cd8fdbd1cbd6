// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import "xdplb/internal/lb"

// Verb is what a command does.
type Verb uint8

// The verbs.
const (
	VerbAddService Verb = iota + 1
	VerbEditService
	VerbDeleteService
	VerbClear
	VerbList
	VerbAddServer
	VerbDeleteServer
	VerbEditServer
	VerbSetTimeouts
	verbStartDaemon
	verbStopDaemon
	VerbRestore
	VerbSave
	VerbZero
	VerbHelp
	VerbVersion
)

// Command is a command line that xdplb does.
type Command struct {
	Verb Verb
	// Named says whether the command names a service. Service is its key, and for AddService and EditService its options
	// too; Scheduler 0 stands for a name that nobody knows.
	Named   bool
	Service lb.Service
	// OnRemoval is for AddService and EditService of saved rules; nil: it was not given.
	OnRemoval *lb.Removal
	// Backend is that of AddServer, EditServer and DeleteServer. Port is the one given with it, or else that of the
	// service, if the service stood before it, or else 0.
	Backend  lb.Backend
	Port     uint16
	Timeouts lb.Timeouts // of SetTimeouts; 0 keeps one
	Listing  ListOptions // of List and Save
}

// Subject is what is listed.
type Subject uint8

// The subjects.
const (
	Table        Subject = iota // services and backends
	TableOfConns                // connections
	TimeoutLine                 // timeouts
	DaemonLines                 // synchronisation daemons, of which there are none
)

// ListOptions are what a listing shows, and how.
type ListOptions struct {
	Subject   Subject
	Columns   Columns
	Numeric   bool // numbers in place of names
	Exact     bool // all digits of large numbers
	PEColumns bool // of connections: with headings for persistence engines
}

// Changes says whether the command changes a state, and so has Edit.
func (c Command) Changes() bool {
	switch c.Verb {
	case VerbList, VerbSave, VerbHelp, VerbVersion, VerbRestore:
		return false
	}
	return true
}
