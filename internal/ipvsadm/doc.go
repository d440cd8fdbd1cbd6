// SPDX-License-Identifier: Apache-2.0

// Package ipvsadm speaks the language of LVS's ipvsadm 1.31 (Debian's 1:1.31-1): its command lines, its save format,
// its listings, its messages and its exit statuses, byte for byte, over an lb.State.
//
//	ParseCommand  words -> Command, as popt and ipvsadm read them
//	Command.Edit  does it to a state; Command.Print prints what it lists
//	ParseRules    lines -> Rules, which Edit does all or none of
//	List, ListConnections, Save  the texts themselves
//
// It differs where ipvsadm is a trap. What xdplb does not have (masquerading, tunnels, firewall marks, persistence
// engines, the synchronisation daemon) is declined by option, after everything that ipvsadm would find wrong. A netmask
// that is none, such as 24, is declined. A backend's port that direct routing cannot honour is warned about. A restore
// does nothing if a line is wrong, and skips comments. Save keeps thresholds. Addresses that lb does not allow are
// refused.
package ipvsadm
