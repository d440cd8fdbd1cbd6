// SPDX-License-Identifier: Apache-2.0

// Package ipvsadm speaks the language of LVS's ipvsadm 1.31: it writes its listings and its save format byte for byte,
// and reads the save format back, which is also the input of "ipvsadm -R" and, word for word, its command line.
//
// Only what an lb.State can hold is written: TCP and UDP in direct-routing mode. Of what is read, everything else is
// refused by line and with the reason, and nothing is taken over half.
package ipvsadm
