// SPDX-License-Identifier: Apache-2.0

package realserver

import "errors"

// Setup makes this host a real server for the VIPs; those of earlier calls stay. Doing it again changes nothing.
//
// A VIP that is on another interface, or on lo with a longer network than itself, is refused before anything is changed, as
// is a gateway that is not on a directly connected network of Dev. If a change fails, the earlier ones stay and are
// recorded: Setup again goes on, Teardown takes them back.
func Setup(o Options) error { return errors.New("not built yet") }

// Teardown puts back what was there before Setup for the VIPs, and with the last of them also the ARP settings and
// the default route. VIPs that Setup has not set up, and values that somebody else has changed since, are left alone;
// doing it again does nothing.
func Teardown(o Options) error { return errors.New("not built yet") }

// Check returns what is wrong with this host as a real server for the VIPs; nothing if all is well. It changes
// nothing, and needs no earlier Setup.
func Check(o Options) ([]Problem, error) { return nil, errors.New("not built yet") }
