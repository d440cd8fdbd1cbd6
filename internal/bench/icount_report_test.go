// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// counted is a report with the rows that the ratios need.
func counted() ICountReport {
	return newICountReport(Machine{Kernel: "6.1"}, []ICountRow{
		{Name: "xdp-drop", Instructions: 700}, {Name: "floor", Instructions: 1000},
		{Name: xdplbHit, Instructions: 1200}, {Name: xdplbNew, Instructions: 1700},
		{Name: lvsHit, Instructions: 6000}, {Name: lvsNew, Instructions: 6800},
	})
}

func TestICountRatios(t *testing.T) {
	t.Parallel()
	report := counted()
	if diff := cmp.Diff([]LVSRatio{{5, 10.6}, {4, 6.1}}, []LVSRatio{report.Established, report.New}); diff != "" {
		t.Errorf("LVS over xdplb (-want +got):\n%s", diff)
	}
	want := ICountRow{Name: xdplbHit, Instructions: 1200, Alone: 500, Floors: 1.2}
	if diff := cmp.Diff(want, report.row(xdplbHit)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestICountCompare(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		row    string
		factor float64
		want   string // of the error; "": none
	}{
		{"the same", xdplbHit, 1, ""},
		{"a little more", xdplbHit, 1.019, ""},
		{"too much more", xdplbHit, 1.021, "more instructions than expected, by more than 2 %: xdplb-rr-hit"},
		{"fewer", xdplbHit, 0.5, ""},
		{"LVS takes more", lvsHit, 2, ""},
		{"unexpected row", "xdplb-rr", 1, "not both counted and expected: xdplb-rr"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			report := counted()
			expected := report.Expected()
			if report.row(test.row).Name == "" {
				report.Rows = append(report.Rows, ICountRow{Name: test.row, Instructions: 1})
			}
			for i := range report.Rows {
				if report.Rows[i].Name == test.row {
					report.Rows[i].Instructions *= test.factor
				}
			}
			var out bytes.Buffer
			err := expected.Compare(&out, report)
			if got := message(err); got != test.want {
				t.Errorf("got error %q, want %q", got, test.want)
			}
			if grown := strings.HasPrefix(test.want, "more"); errors.Is(err, ErrMoreInstructions) != grown {
				t.Errorf("error %v is ErrMoreInstructions: want %t", err, grown)
			}
		})
	}
}

// TestICountCompareMissing: a row that is counted no more is noticed, and so is another kernel.
func TestICountCompareMissing(t *testing.T) {
	t.Parallel()
	report := counted()
	expected := report.Expected()
	report.Rows = report.Rows[:5]
	report.Machine.Kernel = "6.12"
	var out bytes.Buffer
	err := expected.Compare(&out, report)
	if got, want := message(err), "not both counted and expected: "+lvsNew; got != want {
		t.Errorf("got error %q, want %q", got, want)
	}
	if !strings.Contains(out.String(), "of another kernel, 6.1") {
		t.Errorf("got %q, want a word on the kernel", &out)
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
