// SPDX-License-Identifier: Apache-2.0

package realserver

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName names the nftables table, of the arp family, that is ours alone.
const tableName = "xdplb"

// Hooks of the arp family (include/uapi/linux/netfilter_arp.h); the library knows those of the inet families only.
const (
	hookArpIn  = 0
	hookArpOut = 1
)

// Where ARP for IPv4 over Ethernet has its protocol addresses, in bytes from the ARP header (RFC 826).
const (
	arpSender = 14
	arpTarget = 24
)

// writeTable makes the table for the IPv4 VIPs, in one transaction: at no moment is a VIP unprotected that was
// protected before.
//
//	table arp xdplb {
//		chain input  { type filter hook input priority 0;  arp daddr ip VIP drop }
//		chain output { type filter hook output priority 0; arp daddr ip VIP arp saddr ip VIP drop
//		               oifname DEV arp saddr ip VIP arp saddr ip set RIP
//		               arp saddr ip VIP drop }
//	}
//
// The first rule of output drops announcements of the VIP, the last one what no rewriting has reached.
func writeTable(dev string, vips []netip.Addr) error {
	rip, err := primaryAddress(dev)
	if err != nil {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyARP, Name: tableName}
	conn.AddTable(table) // so that there is one to delete
	conn.DelTable(table)
	conn.AddTable(table)
	chain := func(name string, hook nftables.ChainHook) *nftables.Chain {
		return conn.AddChain(&nftables.Chain{
			Table: table, Name: name, Type: nftables.ChainTypeFilter, Hooknum: &hook, Priority: nftables.ChainPriorityFilter,
		})
	}
	input, output := chain("input", hookArpIn), chain("output", hookArpOut)
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		var exprs []expr.Any
		for _, part := range parts {
			exprs = append(exprs, part...)
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	drop := []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	for _, vip := range vips {
		if !vip.Is4() {
			continue
		}
		rule(input, address(arpTarget, vip), drop)
		rule(output, address(arpTarget, vip), address(arpSender, vip), drop)
		rule(output, leavesBy(dev), address(arpSender, vip), setSender(rip))
		rule(output, address(arpSender, vip), drop)
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write the nftables table arp %s: %w", tableName, err)
	}
	return nil
}

// address matches an address of the ARP packet.
func address(offset uint32, addr netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: addr.AsSlice()},
	}
}

// leavesBy matches the outgoing interface by name.
func leavesBy(dev string) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, dev)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Cmp{Register: 1, Op: expr.CmpOpEq, Data: name},
	}
}

// setSender rewrites the sender's protocol address.
func setSender(addr netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: addr.AsSlice()},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: arpSender, Len: 4,
		},
	}
}

// tableExists reports whether the table is there.
func tableExists() (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyARP)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, table := range tables {
		if table.Name == tableName {
			return true, nil
		}
	}
	return false, nil
}

// deleteTable deletes the table if it is there.
func deleteTable() error {
	exists, err := tableExists()
	if err != nil || !exists {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.DelTable(&nftables.Table{Family: nftables.TableFamilyARP, Name: tableName})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete the nftables table arp %s: %w", tableName, err)
	}
	return nil
}

// filtered reports whether the table drops ARP requests for the VIP.
func filtered(vip netip.Addr) (bool, error) {
	exists, err := tableExists()
	if err != nil || !exists {
		return false, err
	}
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyARP, Name: tableName}
	rules, err := conn.GetRules(table, &nftables.Chain{Table: table, Name: "input"})
	if err != nil {
		return false, fmt.Errorf("list the rules of the nftables table arp %s: %w", tableName, err)
	}
	for _, rule := range rules {
		for _, e := range rule.Exprs {
			if cmp, ok := e.(*expr.Cmp); ok && bytes.Equal(cmp.Data, net.IP(vip.AsSlice())) {
				return true, nil
			}
		}
	}
	return false, nil
}
