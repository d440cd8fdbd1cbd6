// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
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
	draining    []bool // by backend id: clients do not stay with it
}

func (d *Datapath) openTemplates(flows *flowTable) *templates {
	info := d.info.side(side(d.config.load(configEpoch)))
	draining := make([]bool, len(info))
	for id := range info {
		draining[id] = info[id].Draining != 0
	}
	return &templates{kept: d.maps.Templates, fresh: d.maps.NewTemplates, meta: &d.meta, flows: flows, draining: draining}
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
	return &templates{kept: kept, fresh: fresh, meta: t.meta, flows: t.flows, draining: t.draining}, nil
}

func (t *templates) close() error { return errors.Join(t.kept.Close(), t.fresh.Close()) }

// isLive says whether new connections follow a template: its backend is there and does not drain, and its time is not up, or the connection
// that it names goes on. Whether the backend takes new connections is not asked.
func (t *templates) isLive(template xdplbTemplate) bool {
	id := template.backend()
	if id == 0 || id >= uint32(len(t.flows.targets)) || t.flows.targets[id] != template.Target || t.draining[id] {
		return false
	}
	return int32(template.Expires-t.flows.now) >= 0 || t.isWitnessed(template)
}

// isWitnessed says whether the connection goes on that a template names.
func (t *templates) isWitnessed(template xdplbTemplate) bool {
	hash := flowHash(template.Witness)
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
		service := owner.service.head(owner.service.ports)
		return visit(Connection{
			Service: service.ServiceKey, Client: netip.AddrPortFrom(toAddr(key.Client, owner.service.Family), 0),
			VIPPort: service.TemplatePort(), Backend: owner.backend.Addr, State: StateNone,
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

// soonOver is how many ticks before its time is up a template gets another witness, if it needs one: more than from one
// sweep to the next.
const soonOver = 256

// sweep drops the templates whose time is up, and lets those go on that have connections. It returns how many it dropped.
func (t *templates) sweep(owners []owner) (dropped int, err error) {
	type place struct {
		in  *ebpf.Map
		key xdplbTemplateKey
	}
	ending := make(map[place]xdplbTemplate)
	err = t.walkAll(func(in *ebpf.Map, key xdplbTemplateKey, template xdplbTemplate) bool {
		if !t.isLive(template) || template.left(t.flows.now) < soonOver && !t.isWitnessed(template) {
			ending[place{in, key}] = template
		}
		return true
	})
	if err != nil || len(ending) == 0 {
		return 0, err
	}
	t.flows.walk(func(bucket, way int, entry xdplbEntry) bool {
		owner := owners[entry.backend()]
		if owner.service == nil || !owner.service.isPersistent() || owner.backend.draining {
			return true
		}
		client, port := t.flows.origin(bucket, way, owner.service.Family)
		for _, in := range []*ebpf.Map{t.kept, t.fresh} {
			at := place{in, owner.service.templateKey(client.Addr())}
			if template, ends := ending[at]; ends && template.Target == entry.Target {
				t.call(at.in, at.key, owner.service.hashFlow(t.meta.HashKeys, client, port))
				delete(ending, at)
			}
		}
		return true
	})
	for at := range ending {
		var template xdplbTemplate
		// looked at once more, since a client may have come back meanwhile
		if at.in.Lookup(at.key, &template) == nil && !t.isLive(template) && at.in.Delete(at.key) == nil {
			dropped++
		}
	}
	return dropped, nil
}

// call makes a connection the witness of a template, if that is still there.
func (t *templates) call(in *ebpf.Map, key xdplbTemplateKey, hash flowHash) {
	var template xdplbTemplate
	if in.Lookup(key, &template) == nil {
		template.Witness = uint64(hash)
		in.Update(key, template, ebpf.UpdateExist) // it may be gone
	}
}

// adoptTemplate puts a template in, unless the client has one.
func (a *adopter) adoptTemplate(s *stranger, done *Adoption) error {
	service, key := s.owner.service, s.owner.service.templateKey(s.Client.Addr())
	for _, in := range []*ebpf.Map{a.templates.kept, a.templates.fresh} {
		var known xdplbTemplate
		if in.Lookup(key, &known) == nil && a.templates.isLive(known) {
			done.Known++
			return nil
		}
	}
	template := xdplbTemplate{
		Target: a.table.targets[s.owner.backend.id], Expires: a.table.now + uint32(s.Left>>tickShift) + 1, Service: service.Id,
	}
	switch err := a.templates.kept.Put(key, template); {
	case errors.Is(err, unix.E2BIG):
		done.NoRoom++
	case err != nil:
		return fmt.Errorf("adopting a persistence template: %w", err)
	default:
		done.Adopted++
	}
	return a.wrote("writing a template")
}
