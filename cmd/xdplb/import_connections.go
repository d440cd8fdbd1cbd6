// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"xdplb/internal/datapath"
	"xdplb/internal/ipvsadm"
	"xdplb/internal/lb"
)

// importedConnections are those that can be adopted, and how many lines were refused.
type importedConnections struct {
	connections []datapath.Connection
	refused     int
}

// importConnections reads the connections of services of a state, and prints what becomes of each line but of those
// that are taken, which are counted.
func (env *environment) importConnections(given string, state *lb.State) (importedConnections, error) {
	name, count := given, make(map[ipvsadm.Verdict]int)
	if given == "" {
		name = procConnections
	}
	found, err := env.readConnections(given, state, func(j ipvsadm.Judgement) {
		count[j.Verdict]++
		if j.Verdict != ipvsadm.Taken {
			fmt.Fprintf(env.stdout, "%s:%s\n", name, j)
		}
	})
	if err == nil {
		_, err = fmt.Fprintf(env.stdout, "%s: %d taken, %d approximated, %d left out, %d refused\n", name,
			count[ipvsadm.Taken], count[ipvsadm.Approximated], count[ipvsadm.LeftOut], count[ipvsadm.Refused])
	}
	return found, err
}

// readConnections judges every line.
func (env *environment) readConnections(given string, state *lb.State, tell func(ipvsadm.Judgement)) (found importedConnections, err error) {
	file, name, err := env.openLVS(given, procConnections)
	if err != nil {
		return found, err
	}
	defer file.Close()
	err = ipvsadm.ReadConnections(file, func(line int, text string, c ipvsadm.Connection, err error) {
		j := ipvsadm.Judgement{Line: line, Text: text, Verdict: ipvsadm.Refused}
		var ours datapath.Connection
		if err != nil {
			j.Why = err.Error()
		} else {
			ours, j.Verdict, j.Why = judgeConnection(c, state)
		}
		switch j.Verdict {
		case ipvsadm.Taken, ipvsadm.Approximated:
			found.connections = append(found.connections, ours)
		case ipvsadm.Refused:
			found.refused++
		}
		tell(j)
	})
	if err != nil {
		return found, fmt.Errorf("reading %s: %w", name, err)
	}
	return found, nil
}

// judgeConnection says what xdplb can make of a connection of LVS's.
func judgeConnection(c ipvsadm.Connection, state *lb.State) (ours datapath.Connection, verdict ipvsadm.Verdict, why string) {
	service, found := state.ServiceOf(lb.ServiceKey{Addr: c.VIP, Protocol: c.Protocol})
	template := c.Client.Port() == 0
	switch {
	case !found:
		return ours, ipvsadm.LeftOut, "its service is not imported, and stays LVS's"
	case c.Left == 0:
		return ours, ipvsadm.LeftOut, "it has expired"
	case template && service.Persistence.Timeout == 0:
		return ours, ipvsadm.LeftOut, "it is a persistence template, and its service is not persistent"
	case template && c.VIP.Port() != service.TemplatePort():
		return ours, ipvsadm.LeftOut, "it is a persistence template of another service"
	}
	its := lvsState{state: datapath.StateNone}
	if !template {
		its = openState(c.Protocol, c.State)
	}
	switch {
	case its.state == "":
		return ours, ipvsadm.LeftOut, "it has no state of an open connection"
	case c.Backend.Port() != c.VIP.Port():
		return ours, ipvsadm.Refused, "LVS changes its port, and direct routing cannot"
	}
	backend, found := service.Backend(c.Backend.Addr())
	switch {
	case found && backend.Hop.Known():
	case its.over:
		return ours, ipvsadm.LeftOut, "it is over, and its real server is gone"
	case found:
		return ours, ipvsadm.Refused, "its real server does not say its MAC address"
	default:
		return ours, ipvsadm.Refused, "its real server is none of the service: add it with weight 0, or leave the line out"
	}
	ours = datapath.Connection{
		Service: service.ServiceKey, Client: c.Client, VIPPort: c.VIP.Port(), Backend: c.Backend.Addr(), State: its.state, Left: c.Left,
	}
	if template {
		return ours, ipvsadm.Taken, ""
	}
	if its.as != "" {
		return ours, ipvsadm.Approximated, "as " + its.as
	}
	if most := its.state.Timeout(c.Protocol, state.Timeouts); c.Left > most {
		return ours, ipvsadm.Approximated, fmt.Sprintf("it expires after %s at the latest", most)
	}
	return ours, ipvsadm.Taken, ""
}

// lvsState is what xdplb makes of a state of LVS's.
type lvsState struct {
	state datapath.ConnectionState // "": none
	as    string                   // LVS's word for that, if it is another
	over  bool                     // the client has ended the connection
}

// openState finds a state by LVS's word. Those of which it sees the client's half alone are xdplb's too; the others are
// those of connections that LVS rewrites (-m).
func openState(protocol lb.Protocol, word string) lvsState {
	switch {
	case protocol == lb.SCTP:
		return sctpState(word)
	case protocol == lb.UDP && word == "UDP":
		return lvsState{state: datapath.StateUDP}
	case protocol != lb.TCP:
		return lvsState{}
	}
	switch state := datapath.ConnectionState(word); state {
	case datapath.StateEstablished, datapath.StateSYN:
		return lvsState{state: state}
	case datapath.StateFIN, datapath.StateTimeWait, datapath.StateClosed:
		return lvsState{state: state, over: true}
	}
	switch word {
	case "SYN_SENT", "SYNACK":
		return lvsState{state: datapath.StateSYN, as: "SYN_RECV"}
	case "CLOSE_WAIT", "LAST_ACK":
		return lvsState{state: datapath.StateFIN, as: "FIN_WAIT", over: true}
	}
	return lvsState{}
}

// sctpState is openState for SCTP.
func sctpState(word string) lvsState {
	switch state := datapath.ConnectionState(word); state {
	case datapath.StateEstablished, datapath.StateInit1, datapath.StateInit, datapath.StateCookieEchoed:
		return lvsState{state: state}
	case datapath.StateShutdownReceived, datapath.StateSCTPClosed:
		return lvsState{state: state, over: true}
	}
	switch word {
	case "C-SENT", "C-REPLIED", "C-WAIT", "COOKIE":
		return lvsState{state: datapath.StateInit, as: "INIT"}
	case "S-SENT", "S-ACK-SENT":
		return lvsState{state: datapath.StateShutdownReceived, as: "S-RECEIVED", over: true}
	case "REJECTED":
		return lvsState{state: datapath.StateSCTPClosed, as: "CLOSED", over: true}
	}
	return lvsState{}
}
