// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"regexp"
)

// tries is how many tables are drawn until one does not lose an established flow by chance: one in forty does.
const tries = 3

// Run measures the director's cases that only matches, and the baselines, in the current namespaces ([Isolate]). flows
// is the most flows that a case has.
func Run(plan Plan, flows uint32, only *regexp.Regexp) (report Report, err error) {
	for range tries {
		if report, err = run(plan, flows, only); !errors.Is(err, errCrowded) {
			break
		}
	}
	return report, err
}

func run(plan Plan, flows uint32, only *regexp.Regexp) (report Report, err error) {
	base, err := LoadBaselines()
	if err != nil {
		return Report{}, err
	}
	defer base.Close()
	director, err := NewDirector(PinDir, flows)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, director.Close()) }()
	cases, err := selected(director.Cases(), only)
	if err != nil {
		return Report{}, err
	}
	idle, err := KeepAttached(append(base.Programs(), director.Programs()...)...)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, idle.Close()) }()
	if err := director.Fill(); err != nil {
		return Report{}, err
	}
	samples, err := Measure(append(base.Cases(), cases...), plan)
	if err == nil {
		err = director.Verify()
	}
	if err != nil {
		return Report{}, director.explain(err)
	}
	return NewReport(ThisMachine(), plan, samples), nil
}

// selected returns the cases whose names match.
func selected(cases []*Case, only *regexp.Regexp) ([]*Case, error) {
	var result []*Case
	for _, c := range cases {
		if only.MatchString(c.Name) {
			result = append(result, c)
		}
	}
	if len(result) == 0 {
		return nil, fmt.Errorf("no case matches %q", only)
	}
	return result, nil
}
