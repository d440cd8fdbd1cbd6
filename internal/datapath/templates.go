// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
)

// Persistence templates say which backend a client of a persistent service has (bpf/persist.h). Packets make and follow
// them; here they are listed, swept and adopted. One that is put in by a system call is put in whole, and there is nothing
// that a killed process could leave half done.
//
// As in LVS, a template lasts for the service's time after the client's last new connection, and as long as it has
// connections. LVS gives a template whose time is up, and that has connections, another minute again and again. Here
// packets do not say when they were last seen there, which would cost every one of them; the template names the last
// connection that was opened instead, and who finds its time up looks whether that goes on. Where another one does,
// [Datapath.Sweep] names that.

// templatesBatch is how many templates are read by one system call.
const templatesBatch = 4096

func (t xdplbTemplate) backend() uint32 { return t.Target & targetID }

// left is how many ticks a template has until its time is up, 0 if it is.
func (t xdplbTemplate) left(now uint32) uint32 { return uint32(max(int32(t.Expires-now), 0)) }

// templates are the persistence templates, and the flow table that tells whether their connections go on.
type templates struct {
	kept, fresh *ebpf.Map
	meta        *xdplbMeta
	flows       *flowTable
}

func (d *Datapath) openTemplates(flows *flowTable) *templates {
	return &templates{kept: d.maps.Templates, fresh: d.maps.NewTemplates, meta: &d.meta, flows: flows}
}

// clone outlives the Datapath.
func (t *templates) clone() (*templates, error) {
	kept, err := t.kept.Clone()
	if err != nil {
		return nil, err
	}
	fresh, err := t.fresh.Clone()
	if err != nil {
		return nil, errors.Join(err, kept.Close())
	}
	return &templates{kept: kept, fresh: fresh, meta: t.meta, flows: t.flows}, nil
}

func (t *templates) close() error { return errors.Join(t.kept.Close(), t.fresh.Close()) }

// isLive says whether new connections follow a template: its backend is there, and its time is not up, or the connection
// that it names goes on. Whether the backend takes new connections is not asked.
func (t *templates) isLive(template xdplbTemplate) bool {
	id := template.backend()
	if id == 0 || id >= uint32(len(t.flows.targets)) || t.flows.targets[id] != template.Target {
		return false
	}
	return int32(template.Expires-t.flows.now) >= 0 || t.isWitnessed(template)
}

// isWitnessed says whether the connection goes on that a template names.
func (t *templates) isWitnessed(template xdplbTemplate) bool {
	hash := flowHash{bucket: uint32(template.Witness >> 32), tag: uint32(template.Witness), check: template.Check}
	entry, found := t.flows.find(hash, t.meta)
	return found && entry.Target == template.Target && t.flows.isLive(entry)
}

// walk visits every live template until visit says no.
func (t *templates) walk(visit func(xdplbTemplateKey, xdplbTemplate) bool) error {
	goesOn := true
	return t.walkAll(func(from *ebpf.Map, key xdplbTemplateKey, template xdplbTemplate) bool {
		if t.isLive(template) && !(from == t.fresh && t.isKept(key)) {
			goesOn = visit(key, template)
		}
		return goesOn
	})
}

// isKept says whether the client has a template among those that give way to none, which counts then.
func (t *templates) isKept(key xdplbTemplateKey) bool {
	var template xdplbTemplate
	return t.kept.Lookup(key, &template) == nil
}

// walkAll visits every template until visit says no. Those that come or go meanwhile may be missed.
func (t *templates) walkAll(visit func(from *ebpf.Map, key xdplbTemplateKey, template xdplbTemplate) bool) error {
	keys, values := make([]xdplbTemplateKey, templatesBatch), make([]xdplbTemplate, templatesBatch)
	for _, m := range []*ebpf.Map{t.kept, t.fresh} {
		var cursor ebpf.MapBatchCursor
		for {
			n, err := m.BatchLookup(&cursor, keys, values, nil)
			if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("reading %s: %w", m, err)
			}
			t.flows.lookAtTheClock()
			for i := range n {
				if !visit(m, keys[i], values[i]) {
					return nil
				}
			}
			if err != nil {
				break
			}
		}
	}
	return nil
}

// walkTemplates visits the live templates as rows of the list of connections.
func (l *ConnectionList) walkTemplates(visit func(Connection) bool) error {
	return l.templates.walk(func(key xdplbTemplateKey, t xdplbTemplate) bool {
		owner := l.owners[t.backend()]
		if owner.backend == nil || owner.service.Id != key.Service || owner.service.Prefix != key.Prefix {
			return true // of what the service was
		}
		service := owner.service.key()
		return visit(Connection{
			Service: service, Client: netip.AddrPortFrom(toAddr(key.Client, owner.service.Family), 0),
			VIPPort: service.Addr.Port(), Backend: owner.backend.Addr, State: StateNone,
			Left: time.Duration(t.left(l.table.now)) << tickShift,
		})
	})
}

// find finds a flow by its hash: find_flow of flow.h.
func (t *flowTable) find(hash flowHash, meta *xdplbMeta) (entry xdplbEntry, found bool) {
	for _, index := range []uint32{hash.home(meta.FlowBuckets), meta.FlowBuckets + hash.spill(meta.SpillBuckets)} {
		bucket := &t.buckets.values[index]
		if way, found := bucket.find(hash); found {
			return bucket.load(way), true
		}
	}
	return xdplbEntry{}, false
}
