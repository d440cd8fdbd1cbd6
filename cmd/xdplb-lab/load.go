// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"xdplb/internal/lab"
)

const pageURL = "http://172.10.0.9/"

// tally counts answers by the real server that gave them.
type tally map[string]int

func (t tally) String() string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(t)) {
		parts = append(parts, fmt.Sprintf("%d by %s", t[name], name))
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// askers is how many requests run at a time.
const askers = 4

// askMany makes so many requests, several at a time, each on a new connection.
func askMany(ctx context.Context, client *lab.Host, requests int) (tally, error) {
	var mu sync.Mutex
	counts := tally{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(askers)
	for range requests {
		group.Go(func() error {
			answer, err := client.Get(ctx, pageURL)
			mu.Lock()
			defer mu.Unlock()
			counts[strings.TrimSpace(answer)]++
			return err
		})
	}
	return counts, group.Wait()
}

// load is requests that run all the time, several at once.
type load struct {
	cancel context.CancelFunc
	group  *errgroup.Group
	stopAt chan struct{} // closed: begin no more requests

	mu     sync.Mutex
	late   bool // requests that begin now count as after
	before tally
	after  tally
}

// startLoad returns when the first answers are there.
func startLoad(ctx context.Context, client *lab.Host) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel, stopAt: make(chan struct{}), before: tally{}, after: tally{}}
	l.group, ctx = errgroup.WithContext(ctx)
	first := make(chan struct{}, askers)
	for range askers {
		l.group.Go(func() error {
			err := l.ask(ctx, client)
			first <- struct{}{}
			for err == nil && l.goesOn() {
				err = l.ask(ctx, client)
			}
			return err
		})
	}
	for range askers {
		<-first
	}
	return l
}

func (l *load) goesOn() bool {
	select {
	case <-l.stopAt:
		return false
	default:
		return true
	}
}

// ask makes one request.
func (l *load) ask(ctx context.Context, client *lab.Host) error {
	l.mu.Lock()
	counts := l.before
	if l.late {
		counts = l.after
	}
	l.mu.Unlock()
	answer, err := client.Get(ctx, pageURL)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	counts[strings.TrimSpace(answer)]++
	return nil
}

// finish counts the requests that begin from now on apart, for half a second, and waits for the last answer. The error is the
// first request's that failed.
func (l *load) finish() (before, after tally, err error) {
	l.mu.Lock()
	l.late = true
	l.mu.Unlock()
	time.Sleep(500 * time.Millisecond)
	close(l.stopAt)
	err = l.group.Wait()
	return l.before, l.after, err
}

// stop ends the load at once, if it has not come to its end.
func (l *load) stop() {
	l.cancel()
	// What requests that were cut off say is of no interest.
	_ = l.group.Wait()
}
