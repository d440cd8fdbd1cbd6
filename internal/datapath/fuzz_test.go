// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzFrame feeds arbitrary bytes to the program, which keeps its flows from frame to frame. The seeds are the frames
// of the tables.
func FuzzFrame(f *testing.F) {
	d := newWorld(f)
	for _, in := range allFrames() {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if !runnable(in) {
			t.Skip("BPF_PROG_TEST_RUN takes no such frame")
		}
		defer d.reportTo(t)()
		reason, action, out := d.explain(in)
		if want := verdictOf(reason); action != want {
			t.Errorf("verdict %d, want %d for reason %d", action, want, reason)
		}
		if err := mayBecome(in, action, out); err != nil {
			t.Error(err)
		}
	})
}

// runnable: BPF_PROG_TEST_RUN takes no frame without a whole Ethernet header. Jumbo frames are as long as they get.
func runnable(in []byte) bool {
	return len(in) >= 14 && len(in) <= 9014
}

// TestMutatedFrames is the fuzzer for every day: the same mutations of the tables' frames in each run.
func TestMutatedFrames(t *testing.T) {
	t.Parallel()
	count := 200_000
	if testing.Short() {
		count = 20_000
	}
	d := newWorld(t)
	seeds := allFrames()
	random := rand.New(rand.NewPCG(1, 2))
	byVerdict := map[uint32]uint64{}
	for i := range count {
		in := mutated(random, seeds)
		if !runnable(in) {
			continue
		}
		action, out := d.run(in)
		byVerdict[action]++
		if err := mayBecome(in, action, out); err != nil {
			t.Fatalf("frame %d: %v\n in %x\nout %x", i, err, in, out)
		}
	}
	counted := map[uint32]uint64{}
	for reason, n := range d.reasons() {
		if n > 0 {
			counted[verdictOf(xdplbReason(reason))] += n
		}
	}
	if diff := cmp.Diff(byVerdict, counted); diff != "" {
		t.Errorf("verdicts (-met +counted):\n%s", diff)
	}
	for _, action := range []uint32{xdpDrop, xdpPass, xdpTX, xdpRedirect} {
		if byVerdict[action] < uint64(count)/1000 {
			t.Errorf("verdict %d for %d of %d frames: the mutations miss it", action, byVerdict[action], count)
		}
	}
}

// mutated is a seed with up to four changes.
func mutated(random *rand.Rand, seeds [][]byte) []byte {
	in := slices.Clone(seeds[random.IntN(len(seeds))])
	for range random.IntN(5) {
		if len(in) < 14 {
			break
		}
		at := random.IntN(len(in))
		if random.IntN(2) == 0 {
			at = random.IntN(min(len(in), 80)) // where the headers are
		}
		switch random.IntN(8) {
		case 0:
			in[at] ^= 1 << random.IntN(8)
		case 1:
			in[at] = byte(random.Uint32())
		case 2:
			in[at] = []byte{0, 1, 0x7f, 0x80, 0xff, 0x45, 0x60, 0x81, 6, 17, 44, 58, 60, 43}[random.IntN(14)]
		case 3:
			in = in[:at]
		case 4:
			in = append(in, make([]byte, random.IntN(64))...)
		case 5:
			in = slices.Insert(in, at, []byte{0x81, 0, 0, 1}[:1+random.IntN(4)]...)
		case 6:
			in = slices.Delete(in, at, min(at+1+random.IntN(8), len(in)))
		case 7: // the head of one frame, the tail of another
			other := seeds[random.IntN(len(seeds))]
			in = append(in[:at], other[min(at, len(other)):]...)
		}
	}
	return in
}

// mayBecome says what is wrong with what the program made of a frame, by rules that hold for every frame:
//
//   - a frame that the director's own stack gets is as it came;
//   - a frame that is sent on came to the director's MAC address and goes to a VIP;
//   - it differs in its MAC addresses, its outer VLAN tag, TTL or hop limit (one less), and in IPv4's header checksum,
//     which is as right or as wrong as before.
func mayBecome(in []byte, action uint32, out []byte) error {
	switch action {
	case xdpPass:
		if !bytes.Equal(in, out) {
			return fmt.Errorf("passed, but altered")
		}
		return nil
	case xdpDrop:
		return nil
	case xdpTX, xdpRedirect:
		return maySend(in, action, out)
	default:
		return fmt.Errorf("verdict %d", action)
	}
}

func maySend(in []byte, action uint32, out []byte) error {
	source := directorMAC
	if action == xdpRedirect {
		source = otherMAC
	}
	if len(out) < 14 || macAddr(out[:6]) != real1MAC || macAddr(out[6:12]) != source {
		return fmt.Errorf("MAC addresses of the frame out")
	}
	if macAddr(in[:6]) != directorMAC {
		return fmt.Errorf("sent on, though it was not addressed to the director")
	}

	offset, kind := ipOffset(in)
	want := slices.Clone(in)
	switch kind {
	case 0x0800:
		if !bytes.Equal(in[offset+16:offset+20], vip4.AsSlice()) {
			return fmt.Errorf("sent on, though it goes to no VIP")
		}
		want[offset+8]--
		header := int(in[offset]&15) * 4
		// the sum stays as it was, and with the checksum's other zero just as well
		was, is := onesSum(in[offset:offset+header]), onesSum(out[len(out)-len(in)+offset:][:header])
		if was%0xffff != is%0xffff {
			return fmt.Errorf("header's sum was %#x, is %#x", was, is)
		}
		copy(want[offset+10:offset+12], out[len(out)-len(in)+offset+10:])
	case 0x86dd:
		if !bytes.Equal(in[offset+24:offset+40], vip6.AsSlice()) {
			return fmt.Errorf("sent on, though it goes to no VIP")
		}
		want[offset+7]--
	default:
		return fmt.Errorf("sent on, though it is no IP")
	}
	copy(want, out[:12])
	if err := sameButTag(want, out, offset > 14); err != nil {
		return err
	}
	return nil
}

// sameButTag compares the frames; the outer tag's id may have become one of the world's, or a tag of it was pushed.
func sameButTag(want, out []byte, tagged bool) error {
	if bytes.Equal(want, out) {
		return nil
	}
	for _, id := range []uint16{vlanHere, vlanElsewhere} {
		changed := withTag(want, id)
		if tagged {
			changed = withVLAN(want, id)
		}
		if bytes.Equal(changed, out) {
			return nil
		}
	}
	return fmt.Errorf("altered in more than a hop (-want +got):\n%s", cmp.Diff(want, out))
}
