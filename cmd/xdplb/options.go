// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"xdplb/internal/lb"
)

const optionsHelp = `Flags of schedulers, as ipvsadm has them:
  sh-port, mh-port          hash the client's port too
  sh-fallback, mh-fallback  take another backend if the hash's has reached its upper threshold

When a backend is removed from the service:
  reschedule  its connections' packets go to other backends, which do not know them and mostly reset them
  keep        its connections go on until they time out; new ones go elsewhere`

// optionFlags are --sched-flags, --one-packet and --on-removal.
type optionFlags struct {
	flags     *pflag.FlagSet
	words     string
	onePacket bool
	onRemoval lb.Removal
}

// add adds them to a command.
func (f *optionFlags) add(cmd *cobra.Command) {
	f.flags = cmd.Flags()
	f.flags.StringVar(&f.words, "sched-flags", "", "`FLAGS` of the scheduler (see above), such as sh-port,sh-fallback; \"\" for none")
	f.flags.BoolVar(&f.onePacket, "one-packet", false, "udp: schedule each packet by itself")
	parsedVar(f.flags, &f.onRemoval, "on-removal", "WHAT", "", "connections of removed backends: reschedule (default) or keep, see above", lb.ParseRemoval)
	completeFlag(cmd, "sched-flags", cobra.FixedCompletions(
		[]string{"sh-fallback", "sh-port", "mh-fallback", "mh-port"}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "on-removal", cobra.FixedCompletions(
		[]string{lb.Reschedule.String(), lb.Keep.String()}, cobra.ShellCompDirectiveNoFileComp))
}

// edit changes what was given. Flags of another scheduler mean nothing to the one that a service has now.
func (f *optionFlags) edit(service *lb.Service, before lb.Scheduler) (err error) {
	if service.Scheduler != before {
		service.Flags = 0
	}
	if f.flags.Changed("sched-flags") {
		service.Flags, err = service.Scheduler.ParseSchedulerFlags(f.words)
		if errors.As(err, new(*lb.ValueError)) { // no scheduler has such a flag
			err = usage(err)
		}
	}
	if f.flags.Changed("one-packet") {
		service.OnePacket = f.onePacket
	}
	if f.flags.Changed("on-removal") {
		service.OnRemoval = f.onRemoval
	}
	return err
}
