// SPDX-License-Identifier: Apache-2.0

// Package config reads the YAML file of timeouts, services and backends:
//
//	timeouts:                            # seconds without packets until a flow is forgotten
//	  tcp: 900                           # established; these are the defaults
//	  tcpfin: 120                        # after the client's FIN
//	  udp: 300
//	services:
//	  - address: 172.10.0.9:80           # an IPv6 address needs quotes: "[2001:db8::64]:80"
//	    ports: 80,8000-8099              # if there are several; the address may do without a port then
//	    protocol: tcp                    # tcp, udp or sctp; default tcp
//	    scheduler: rr                    # as of service add; default wlc
//	    persistent: 360                  # seconds that a client stays with its backend; default 0, not at all
//	    netmask: 24                      # with persistent: bits that make a client, or 255.255.255.0; default all
//	    expire-quiescent: true           # with persistent: not with a backend of weight 0; default false
//	    on-removal: keep                 # connections of a removed backend: reschedule or keep; default reschedule
//	    backends:                        # default none
//	      - address: 192.168.60.8
//	        weight: 1                    # 0 to 2147483647; default 1
//	        mac: 02:00:00:00:00:08       # default: found on the segment
//	        dev: eth0                    # default: found by the route
//	        vlan: 100                    # 1 to 4094, only with mac; default: frames keep their tags
//
// It is strict: broken syntax, an unknown or repeated key, a value of another type or out of its range, a service or
// backend given twice is an error that begins "file:line:column: ". The key "services" must be there, so that an empty
// file is not taken for the wish to have no services; that is "services: []". Anchors and aliases are allowed, so
// that two services can share a list of backends.
package config
