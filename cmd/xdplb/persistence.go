// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"xdplb/internal/lb"
)

const persistenceHelp = `A persistent service keeps all connections of a client on one backend: as long as one of them lasts, and until the
given number of seconds after the client has opened its last one. With --netmask, all clients of a network count as
one. A client stays with a quiesced backend (weight 0), unless --expire-quiescent is given: then its next new
connection goes elsewhere.`

// persistenceFlags are the options of a service about persistence.
type persistenceFlags struct {
	flags       *pflag.FlagSet
	persistence lb.Persistence
}

// add adds them to a command.
func (f *persistenceFlags) add(cmd *cobra.Command) {
	f.flags = cmd.Flags()
	usual := strconv.Itoa(int(lb.DefaultPersistence / time.Second))
	parsedVar(f.flags, &f.persistence.Timeout, "persistent", "SECONDS", "",
		"keep clients on their backends for so long (without =SECONDS: "+usual+")", lb.ParsePersistence)
	f.flags.Lookup("persistent").NoOptDefVal = usual
	parsedVar(f.flags, &f.persistence.Prefix, "netmask", "MASK", "",
		"the part of an address that makes a client: 255.255.255.0, or a prefix length", lb.ParseGranularity)
	f.flags.BoolVar(&f.persistence.ExpireQuiescent, "expire-quiescent", false, "move clients away from backends of weight 0")
}

// edit changes what was given of a service's persistence.
func (f *persistenceFlags) edit(service *lb.Service) error {
	now := service.Persistence
	if f.flags.Changed("persistent") {
		if f.persistence.Timeout == 0 {
			now = lb.Persistence{}
		} else if now.Timeout == 0 {
			now.Prefix = uint8(service.Addr.Addr().BitLen())
		}
		now.Timeout = f.persistence.Timeout
	}
	if now.Timeout == 0 && (f.flags.Changed("netmask") || f.flags.Changed("expire-quiescent")) {
		return usagef("--netmask and --expire-quiescent are for persistent services: give --persistent too")
	}
	if f.flags.Changed("netmask") {
		now.Prefix = f.persistence.Prefix
	}
	if f.flags.Changed("expire-quiescent") {
		now.ExpireQuiescent = f.persistence.ExpireQuiescent
	}
	if now.Timeout == 0 && service.Addr.Port() == 0 {
		return usagef("port 0 means all ports, which only a persistent service can have: give --persistent")
	}
	service.Persistence = now
	return nil
}

// persistenceText is a service's persistence in a word or two: "-", "360s", "360s by /24".
func persistenceText(s lb.Service) string {
	p := s.Persistence
	if p.Timeout == 0 {
		return "-"
	}
	text := strconv.Itoa(int(p.Timeout/time.Second)) + "s"
	if int(p.Prefix) != s.Addr.Addr().BitLen() {
		text += " by /" + strconv.Itoa(int(p.Prefix))
	}
	return text
}
