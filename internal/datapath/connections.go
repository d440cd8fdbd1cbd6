// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"xdplb/internal/lb"
)

// Connection is a flow that packets follow, or a persistence template: the client's address is that of a network then, its
// port is 0, and VIPPort is [lb.Service.TemplatePort].
type Connection struct {
	Service lb.ServiceKey
	Client  netip.AddrPort
	VIPPort uint16 // the port that the client uses
	Backend netip.Addr
	State   ConnectionState
	Left    time.Duration // until it expires, if no packet comes
}

// IsTemplate says whether it is a persistence template.
func (c *Connection) IsTemplate() bool { return c.Client.Port() == 0 }

// ConnectionList lists the live flows of the services that there were when it was opened.
type ConnectionList struct {
	table     *flowTable
	templates *templates
	owners    []owner
}

// Connections opens a list of the live flows. It outlives the Datapath, so that who passes it on to a slow reader need
// not keep the lock.
func (d *Datapath) Connections() (*ConnectionList, error) {
	live, err := d.readLive(nil)
	if err != nil {
		return nil, err
	}
	table, err := d.openFlows()
	if err != nil {
		return nil, fmt.Errorf("reading the flow table: %w", err)
	}
	templates, err := d.openTemplates(table).clone()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the persistence templates: %w", err), table.close())
	}
	return &ConnectionList{table, templates, d.owners(live)}, nil
}

// Close closes the list.
func (l *ConnectionList) Close() error { return errors.Join(l.table.close(), l.templates.close()) }

// Walk calls visit for every live flow, in no order, and then for every live template, until it says false. Those that come
// or go meanwhile may be missed. It needs no more memory for more of them.
func (l *ConnectionList) Walk(visit func(Connection) bool) error {
	goesOn := true
	l.walkFlows(func(c Connection) bool {
		goesOn = visit(c)
		return goesOn
	})
	if !goesOn {
		return nil
	}
	if err := l.walkTemplates(visit); err != nil {
		return fmt.Errorf("reading the persistence templates: %w", err)
	}
	return nil
}

func (l *ConnectionList) walkFlows(visit func(Connection) bool) {
	table := l.table
	table.walk(func(bucket, way int, entry xdplbEntry) bool {
		owner := l.owners[entry.backend()]
		if owner.backend == nil {
			return true
		}
		client, port := table.origin(bucket, way, owner.service.Family)
		if table.buckets.values[bucket].load(way).Target != entry.Target {
			return true // replaced while it was read
		}
		age := max(ageOf(entry.Status, table.now), 1)
		left := table.timeout(entry) - min(age-1, table.timeout(entry))
		defer table.lookAtTheClock() // visit may have taken long
		return visit(Connection{
			Service: owner.service.key(), Client: client, VIPPort: port, Backend: owner.backend.Addr,
			State: stateOf(entry), Left: time.Duration(left) << tickShift,
		})
	})
}

// owner is whose backend id it is.
type owner struct {
	service *service
	backend *backend
}

// owners is by backend id. Those that drain own their flows, but no templates.
func (d *Datapath) owners(live *configuration) []owner {
	owners := make([]owner, d.backends.count)
	for _, s := range live.list {
		for _, b := range s.all() {
			owners[b.id] = owner{s, b}
		}
	}
	return owners
}

// origin reads where the flow of a way comes from, and the port that it goes to.
func (t *flowTable) origin(bucket, way int, family uint8) (netip.AddrPort, uint16) {
	origin := &t.origins.values[bucket].Origin[way]
	var address [16]byte
	if family == 4 {
		binary.NativeEndian.PutUint32(address[:], origin.Client)
	} else {
		address = t.clients6.values[bucket*len(t.origins.values[bucket].Origin)+way].Address
	}
	return netip.AddrPortFrom(toAddr(address, family), fromPort(origin.ClientPort)), fromPort(origin.VipPort)
}
