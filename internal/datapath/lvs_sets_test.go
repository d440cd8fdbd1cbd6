// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"math/rand/v2"
	"testing"

	"xdplb/internal/lb"
)

// grownSet is a service scheduled by lblcr whose set has grown to two backends: the first by address, and then the second,
// to which client 4 went because the first was overloaded. All connections are over.
func (d *rig) grownSet(t *testing.T) *lvsWorld {
	t.Helper()
	w := d.newLVSWorld(t, lb.LBLCR, lb.TCP, rand.New(rand.NewPCG(1, 1)))
	for range 3 {
		w.add(2)
	}
	w.publish()
	for number := 1; number <= 4; number++ {
		w.open(t, number, (number-1)/3)
	}
	for number := range w.live {
		w.expire(number)
	}
	return w
}

// open lets a client open a connection, which must go to a backend, in LVS too, and is established.
func (w *lvsWorld) open(t *testing.T, number, backend int) {
	t.Helper()
	what := w.connect(t, number)
	if got := w.live[number]; t.Failed() || got == nil || got.dest != w.service.dests[backend] {
		t.Fatalf("%s: went to %+v, want backend %d", what, got, backend)
	}
	w.goOn(number, tcpFlags{ack: true})
}

// TestSetTakesTheNewest: of equals in a set the last to join is taken, though it comes last by address.
func TestSetTakesTheNewest(t *testing.T) {
	t.Parallel()
	w := newRig(t).grownSet(t)
	w.open(t, 5, 1)
	w.open(t, 6, 0)
	w.open(t, 7, 1)
}

// TestSetShrinks: a set that has been as it is for a day loses its most loaded backend, of equals the last to join, though
// the service is in use.
func TestSetShrinks(t *testing.T) {
	t.Parallel()
	d := newRig(t)
	for _, test := range []struct {
		name string
		load []int // the backends of the connections that are open all the while
		time int64
		want int // where a connection goes when all are over
	}{
		{"the most loaded leaves", []int{1, 0, 1}, day + 100, 0},
		{"the newest of equals leaves", []int{1, 0}, day + 100, 0},
		{"before its time", []int{1, 0, 1}, day - 100, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := d.grownSet(t)
			number := 5
			for _, backend := range test.load {
				w.open(t, number, backend)
				number++
			}
			for range 2 { // not all at once, after which the set would be forgotten
				w.wait(t, test.time/2)
				w.connect(t, number)
				w.expire(number)
			}
			for number := range w.live {
				w.expire(number)
			}
			w.open(t, number, test.want)
		})
	}
}
