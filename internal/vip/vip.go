// SPDX-License-Identifier: Apache-2.0

// Package vip puts virtual addresses on the director's interface and tells the segment that they live there.
//
// All functions act on the network namespace of the calling thread.
package vip

import (
	"context"
	"errors"
	"net/netip"
)

// ErrExists is wrapped by the error of [Add] when the interface holds the address already.
var ErrExists = errors.New("already there")

// ErrNotFound is wrapped by the error of [Delete] when the interface does not hold the address.
var ErrNotFound = errors.New("not there")

// Address is an address of an interface.
type Address struct {
	Prefix    netip.Prefix // the address itself, with the length of its network
	Interface string
}

// Parse reads ADDRESS or ADDRESS/PREFIX; without a prefix the network is the address alone (/32 or /128).
func Parse(s string) (netip.Prefix, error) { return netip.Prefix{}, errors.New("not built yet") }

// Add puts an address on an interface that is up, and announces it (see [Announce]); that takes about two seconds.
// The address serves from the start. If ctx ends early, the address stays, and the error is ctx's.
func Add(ctx context.Context, prefix netip.Prefix, dev string) error { return errors.New("not built yet") }

// Delete takes exactly the named address off the interface: other addresses stay, also those of the same network.
func Delete(prefix netip.Prefix, dev string) error { return errors.New("not built yet") }

// List returns the unicast addresses, link-local ones excepted, of an interface, or of all but lo if dev is empty.
func List(dev string) ([]Address, error) { return nil, errors.New("not built yet") }

// Announce tells the segment behind an interface that an address lives at the interface's hardware address.
func Announce(ctx context.Context, addr netip.Addr, dev string) error { return errors.New("not built yet") }
