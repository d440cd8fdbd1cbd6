// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"xdplb/internal/lb"
)

// maxBackends bounds what aliases can make of a small file.
const maxBackends = 1 << 20

// Read reads a file; name is what errors call it.
func Read(name string, r io.Reader) (File, error) {
	text, err := io.ReadAll(r)
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", name, err)
	}
	d := decoder{name: name}
	documents, err := parse(bytes.NewReader(text))
	switch {
	case err != nil:
		return File{}, d.syntaxError(text, err)
	case len(documents) == 0:
		return File{}, fmt.Errorf("%s: the file is empty: want services: [...], or services: [] for none", name)
	case len(documents) > 1:
		return File{}, d.errorf(documents[1], "a second document: want one")
	}
	return d.file(documents[0].Content[0])
}

// decoder turns nodes into values. It works on nodes, not by reflection, because only they know line and column of a
// value that is of the right type and still wrong.
type decoder struct {
	name     string
	backends int // so far
}

func (d *decoder) position(n *yaml.Node) string {
	return fmt.Sprintf("%s:%d:%d", d.name, n.Line, n.Column)
}

func (d *decoder) errorf(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("%s: %w", d.position(n), fmt.Errorf(format, args...))
}

// file decodes the top of the file.
func (d *decoder) file(n *yaml.Node) (File, error) {
	values, err := d.mapping(n, "timeouts", "services")
	if err != nil {
		return File{}, err
	}
	timeouts, err := d.timeouts(values["timeouts"])
	if err != nil {
		return File{}, err
	}
	list, ok := values["services"]
	if !ok {
		return File{}, d.errorf(n, "no key services: want services: [...], or services: [] for none")
	}
	items, err := d.sequence(list, "services")
	if err != nil {
		return File{}, err
	}
	file := File{Timeouts: timeouts, Services: make([]Service, 0, len(items))}
	seen := make(map[lb.ServiceKey]string, len(items))
	for _, item := range items {
		service, err := d.service(item)
		if err != nil {
			return File{}, err
		}
		if before, twice := seen[service.ServiceKey]; twice {
			return File{}, d.errorf(item, "service %s %w, at %s", service.ServiceKey, lb.ErrExists, before)
		}
		seen[service.ServiceKey] = d.position(item)
		file.Services = append(file.Services, service)
	}
	return file, nil
}

// timeouts decodes those that are given; without the node, which is a key left out, all are LVS's defaults.
func (d *decoder) timeouts(n *yaml.Node) (t lb.Timeouts, err error) {
	if n == nil {
		return t, nil
	}
	values, err := d.mapping(n, "tcp", "tcpfin", "udp")
	if err != nil {
		return t, err
	}
	seconds := func(key string, to *time.Duration) error {
		return d.number(values[key], key, func(word string) (err error) {
			*to, err = lb.ParseTimeout(word)
			return err
		})
	}
	for _, err := range []error{seconds("tcp", &t.TCP), seconds("tcpfin", &t.TCPFin), seconds("udp", &t.UDP)} {
		if err != nil {
			return lb.Timeouts{}, err
		}
	}
	return t.WithoutDefaults(), nil
}

func (d *decoder) service(n *yaml.Node) (Service, error) {
	values, err := d.mapping(n, "address", "ports", "protocol", "scheduler", "sched-flags", "one-packet", "on-removal", "persistent", "netmask", "expire-quiescent", "backends")
	if err != nil {
		return Service{}, err
	}
	service := Service{ServiceKey: lb.ServiceKey{Protocol: lb.TCP}, Scheduler: lb.DefaultScheduler}
	var ranges []lb.PortRange
	addr, ok := values["address"]
	if !ok {
		return Service{}, d.errorf(n, "the service has no address")
	}
	for _, err := range []error{
		d.text(values["protocol"], "protocol", func(word string) (err error) {
			service.Protocol, err = lb.ParseProtocol(word)
			return err
		}),
		d.text(values["scheduler"], "scheduler", func(word string) (err error) {
			service.Scheduler, err = lb.ParseScheduler(word)
			return err
		}),
		d.text(values["sched-flags"], "sched-flags", func(word string) (err error) {
			service.Flags, err = service.Scheduler.ParseSchedulerFlags(word)
			return err
		}),
		d.boolean(values["one-packet"], "one-packet", func(word string) error {
			service.OnePacket = strings.EqualFold(word, "true")
			if service.OnePacket && service.Protocol != lb.UDP {
				return errors.New("one-packet is for protocol udp only")
			}
			return nil
		}),
		d.text(values["on-removal"], "on-removal", func(word string) (err error) {
			service.OnRemoval, err = lb.ParseRemoval(word)
			return err
		}),
		d.ports(values["ports"], func(word string) (err error) {
			ranges, err = lb.ParsePorts(word)
			return err
		}),
		d.text(addr, "address", func(word string) (err error) {
			if alone, err := lb.ParseVIP(word); err == nil && len(ranges) > 0 {
				word = ranges[0].Of(alone).String()
			}
			service.ServiceKey, err = lb.ParseServiceKey(word, service.Protocol.String())
			return err
		}),
	} {
		if err != nil {
			return Service{}, err
		}
	}
	if len(ranges) > 0 {
		service.Ports = lb.NewPorts(service.Addr.Port(), ranges...)
	}
	if err := d.persistence(values, &service); err != nil {
		return Service{}, err
	}
	if list, ok := values["backends"]; ok {
		service.Backends, err = d.backendList(list, &service)
	}
	return service, err
}

// ports reads a list of ports and ranges, which is a number if it is one port.
func (d *decoder) ports(n *yaml.Node, parse func(word string) error) error {
	if n != nil && resolve(n).ShortTag() == "!!int" {
		return d.number(n, "ports", parse)
	}
	return d.text(n, "ports", parse)
}

// persistence decodes what a service says of it. All else of a service is known.
func (d *decoder) persistence(values map[string]*yaml.Node, service *Service) error {
	p := &service.Persistence
	err := d.number(values["persistent"], "persistent", func(word string) (err error) {
		p.Timeout, err = lb.ParsePersistence(word)
		return err
	})
	if err != nil {
		return err
	}
	for _, key := range []string{"netmask", "expire-quiescent"} {
		if n, ok := values[key]; ok && p.Timeout == 0 {
			return d.errorf(resolve(n), "%s needs persistent, with more than 0 seconds", key)
		}
	}
	if p.Timeout == 0 {
		return d.valid(values["address"], service)
	}
	p.Prefix = uint8(service.Addr.Addr().BitLen())
	granularity := func(word string) (err error) {
		p.Prefix, err = lb.ParseGranularity(word)
		return err
	}
	mask := values["netmask"]
	if mask != nil && resolve(mask).ShortTag() == "!!str" {
		err = d.text(mask, "netmask", granularity)
	} else {
		err = d.number(mask, "netmask", granularity)
	}
	if err != nil {
		return err
	}
	err = d.scalar(values["expire-quiescent"], "expire-quiescent", "!!bool", "true or false", func(word string) error {
		p.ExpireQuiescent = strings.EqualFold(word, "true")
		return nil
	})
	if err != nil {
		return err
	}
	if mask != nil {
		return d.valid(mask, service)
	}
	return d.valid(values["address"], service)
}

// valid asks lb whether there may be such a service. What is wrong is told of a node.
func (d *decoder) valid(at *yaml.Node, service *Service) error {
	_, err := lb.NewState([]lb.Service{{
		ServiceKey: service.ServiceKey, Scheduler: service.Scheduler, Persistence: service.Persistence,
	}})
	if err != nil {
		return d.errorf(resolve(at), "%w", err)
	}
	return nil
}

func (d *decoder) backendList(n *yaml.Node, service *Service) ([]Backend, error) {
	items, err := d.sequence(n, "backends")
	if err != nil {
		return nil, err
	}
	backends := make([]Backend, 0, len(items))
	seen := make(map[netip.Addr]string, len(items))
	for _, item := range items {
		if d.backends++; d.backends > maxBackends {
			return nil, d.errorf(item, "more than %d backends", maxBackends)
		}
		backend, err := d.backend(item, service)
		if err != nil {
			return nil, err
		}
		if before, twice := seen[backend.Addr]; twice {
			return nil, d.errorf(item, "backend %s of %s %w, at %s", backend.Addr, service.ServiceKey, lb.ErrExists, before)
		}
		seen[backend.Addr] = backend.position
		backends = append(backends, backend)
	}
	return backends, nil
}

func (d *decoder) backend(n *yaml.Node, service *Service) (Backend, error) {
	values, err := d.mapping(n, "address", "weight", "upper", "lower", "mac", "dev", "vlan")
	if err != nil {
		return Backend{}, err
	}
	addr, ok := values["address"]
	if !ok {
		return Backend{}, d.errorf(n, "the backend has no address")
	}
	backend := Backend{Weight: 1, position: d.position(resolve(addr))}
	for _, err := range []error{
		d.text(addr, "address", func(word string) (err error) {
			if backend.Addr, err = lb.ParseBackendAddr(word); err != nil {
				return err
			}
			return fits(service, lb.Backend{Addr: backend.Addr})
		}),
		d.number(values["weight"], "weight", func(word string) (err error) {
			backend.Weight, err = lb.ParseWeight(word)
			return err
		}),
		d.number(values["upper"], "upper", func(word string) (err error) {
			backend.Upper, err = lb.ParseThreshold(word)
			return err
		}),
		d.number(values["lower"], "lower", func(word string) (err error) {
			if backend.Lower, err = lb.ParseThreshold(word); err != nil {
				return err
			}
			return fits(service, lb.Backend{Addr: backend.Addr, Upper: backend.Upper, Lower: backend.Lower})
		}),
		d.text(values["mac"], "mac", func(word string) (err error) {
			backend.MAC, err = lb.ParseMAC(word)
			return err
		}),
		d.text(values["dev"], "dev", func(word string) error {
			backend.Dev = word
			if word == "" {
				return errors.New("dev is empty")
			}
			return nil
		}),
		d.number(values["vlan"], "vlan", func(word string) (err error) {
			backend.VLAN, err = lb.ParseVLAN(word)
			return err
		}),
	} {
		if err != nil {
			return Backend{}, err
		}
	}
	if backend.VLAN != 0 && backend.MAC == [6]byte{} {
		return Backend{}, d.errorf(resolve(values["vlan"]), "vlan needs mac: a backend that is found is found with its VLAN")
	}
	return backend, nil
}

// fits asks lb whether a backend may belong to a service.
func fits(service *Service, backend lb.Backend) error {
	_, err := lb.NewState([]lb.Service{{
		ServiceKey: service.ServiceKey, Scheduler: service.Scheduler, Persistence: service.Persistence,
		Backends: []lb.Backend{backend},
	}})
	return err
}

// resolve follows an alias to the node that it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// mapping returns the values of a mapping by key, of which only those given are allowed.
func (d *decoder) mapping(n *yaml.Node, keys ...string) (map[string]*yaml.Node, error) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		return nil, d.errorf(n, "want keys (%s), got %s", strings.Join(keys, ", "), describe(n))
	}
	values := make(map[string]*yaml.Node, len(keys))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := resolve(n.Content[i])
		if key.Kind != yaml.ScalarNode || !slices.Contains(keys, key.Value) {
			return nil, d.errorf(n.Content[i], "unknown key %q: want %s", key.Value, strings.Join(keys, ", "))
		}
		if _, twice := values[key.Value]; twice {
			return nil, d.errorf(n.Content[i], "key %s is given twice", key.Value)
		}
		values[key.Value] = n.Content[i+1]
	}
	return values, nil
}

func (d *decoder) sequence(n *yaml.Node, key string) ([]*yaml.Node, error) {
	n = resolve(n)
	if n.Kind != yaml.SequenceNode {
		return nil, d.errorf(n, "%s: want a list, got %s", key, describe(n))
	}
	return n.Content, nil
}

// text gives a string to the function set. Without the node, which is a key left out, it does nothing.
func (d *decoder) text(n *yaml.Node, key string, set func(string) error) error {
	return d.scalar(n, key, "!!str", "text", set)
}

// number gives an integer, as it is written, to the function set. Without the node it does nothing.
func (d *decoder) number(n *yaml.Node, key string, set func(string) error) error {
	return d.scalar(n, key, "!!int", "a whole number", set)
}

// boolean gives true or false, as it is written, to the function set. Without the node it does nothing.
func (d *decoder) boolean(n *yaml.Node, key string, set func(string) error) error {
	return d.scalar(n, key, "!!bool", "true or false", set)
}

func (d *decoder) scalar(n *yaml.Node, key, tag, want string, set func(string) error) error {
	if n == nil {
		return nil
	}
	n = resolve(n)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != tag {
		return d.errorf(n, "%s: want %s, got %s", key, want, describe(n))
	}
	if err := set(n.Value); err != nil {
		return d.errorf(n, "%w", err)
	}
	return nil
}

// describe says what a node is, for an error that wanted something else.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!str":
		return fmt.Sprintf("the text %q", n.Value)
	case "!!int", "!!float":
		return "the number " + n.Value
	}
	return n.Value
}
