/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Persistence: all connections of a client have one backend. A template says which: it is what LVS
 * calls so, and lasts for the service's time after the client's last new connection, and as long as
 * a connection does.
 *
 * A template of which only a connection's first packet was seen lies in new_templates, where the
 * oldest gives way: anybody can send first packets in others' names, but a flood of them moves
 * nothing else. The client's next packet moves its template to templates, where none gives way. In
 * flood mode a template is followed, and none is made before the client's next packet.
 *
 * Nothing of this is on the way of a packet whose flow is known, but for the one that makes the
 * connection more than its first packet. So packets do not renew a template. It names the last
 * connection that was opened by it instead, its witness, and does not end before that. The sweep
 * sees to it that the witness is one that goes on, where the last one is over and others are not.
 */
#ifndef XDPLB_PERSIST_H
#define XDPLB_PERSIST_H

#include "flow.h"

union template_word {
	struct {
		target_t target;
		__u32 expires;
	};
	__u64 word;
};

/* What becomes of a connection whose client has no template. */
enum joining_mode {
	JOIN_FOLLOW, /* it goes to the target "otherwise", if that is any, and none is made */
	JOIN_TARGET, /* it goes there, and one is made */
	JOIN_CHOOSE, /* the scheduler chooses; "otherwise" is the client's slot, if that is hashed */
};

/* A connection of a persistent service. */
struct joiner {
	struct template_key key;
	flow_hash_t hash; /* of the flow */
	__u32 now;
	target_t otherwise; /* without a template; see the mode */
	__u8 mode;	    /* enum joining_mode */
	__u8 zero[7];	    /* no gaps: the verifier wants all that is passed on to be written */
};

/* Arguments of global functions, beside the hash. */
union joining {
	struct {
		target_t otherwise;
		__u8 mode;
		__u8 zero[3];
	};
	__u64 word;
};

/* Cuts a client's address down to what the service looks at. */
static __always_inline void cut_client(struct template_key *key)
{
	__u32 *word = (__u32 *)key->client;
	int bits = key->prefix;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		if (bits < 32)
			word[i] &= bits > 0 ? bpf_htonl(~0U << (32 - bits)) : 0;
		bits -= 32;
	}
}

static __always_inline void set_key4(struct template_key *key, __be32 client, __u8 prefix)
{
	__be32 *word = (__be32 *)key->client;

	word[0] = client;
	word[1] = word[2] = word[3] = 0;
	key->prefix = prefix;
	cut_client(key);
}

static __always_inline void set_key6(struct template_key *key, const struct client6 *client,
				     __u8 prefix)
{
	__builtin_memcpy(key->client, client->address, sizeof(key->client));
	key->prefix = prefix;
	cut_client(key);
}

/* The tick at which a template ends that is renewed now. The time is rounded up. */
static __always_inline __u32 end_of(const struct service *service, __u32 now)
{
	__u64 seconds = service->persistence & PERSISTENCE_SECONDS;

	return now + (seconds * 1000000000 >> TICK_SHIFT) + 1;
}

/*
 * Whether a client may stay with a backend. One that was removed has its flows at most. One that
 * takes no new flows because it is quiesced keeps its clients, unless the service says otherwise.
 */
static __always_inline bool keeps_clients(const struct service *service, __u32 id)
{
	const struct backend_columns *columns = columns_of(id);

	if (!columns || columns->draining)
		return false;
	return columns->weight || !(service->persistence & PERSISTENCE_EXPIRES_QUIESCENT);
}

/* Whether a template may send new connections there: not where no next hop is known. */
static __always_inline bool is_open(const struct service *service, target_t target)
{
	const struct backend *backend = backend_of(target);

	if (!backend || !is_known(load_hop(backend)))
		return false;
	return keeps_clients(service, target_id(target));
}

/* Whether a flow is still remembered. */
__attribute__((noinline)) int is_remembered(flow_hash_t hash, target_t target, __u32 now)
{
	struct flow flow = find_flow(hash, now);

	return flow.bucket && flow.was.entry.target == target && !is_expired(flow.was.entry, now);
}

static __always_inline bool is_expired_template(const struct template *template,
						union template_word was, __u32 now)
{
	return (__s32)(was.expires - now) < 0 &&
	       !is_remembered(*(const volatile __u64 *)&template->witness, was.target, now);
}

static __always_inline struct template *find_template(const struct template_key *key)
{
	struct template *template = bpf_map_lookup_elem(&templates, key);

	if (!template)
		template = bpf_map_lookup_elem(&new_templates, key);
	/* the kernel may give the memory of one that is dropped to another meanwhile */
	return template && *(const volatile __u32 *)&template->service == key->service ? template :
											 NULL;
}

static __always_inline union template_word load_template(const struct template *template)
{
	return (union template_word){ .word = *(const volatile __u64 *)&template->target };
}

static __always_inline bool change_template(struct template *template, union template_word was,
					    union template_word next)
{
	return __sync_val_compare_and_swap((__u64 *)&template->target, was.word, next.word) ==
	       was.word;
}

static __always_inline void witness(struct template *template, const struct joiner *joiner)
{
	*(volatile __u64 *)&template->witness = joiner->hash;
}

/* The backend of a client without a template, as any new flow's of the service. */
static __always_inline enum reason choose_anew(const struct joiner *joiner,
					       const struct service *service, struct cursor *cursor,
					       target_t *target)
{
	__u32 tag = tag_of(joiner->hash), turn, id;

	*target = joiner->otherwise;
	if (joiner->mode == JOIN_TARGET)
		return REASON_TX;
	turn = __sync_fetch_and_add(&cursor->chosen, 1);
	if (is_caching(service))
		id = choose_cached(service, cursor, joiner->now);
	else if (service->limited)
		id = pick_limited(service, cursor, turn,
				  is_hashing(service) ? joiner->otherwise : tag);
	else if (is_hashing(service))
		id = slot_of(service->table, joiner->otherwise);
	else if (service->members)
		id = choose_by_load(service, turn, tag);
	else
		id = slot_of(service->table, turn % service->slots);
	return id ? aim(id, target) : REASON_NO_BACKEND;
}

/*
 * Makes the template of a client whose old one, if there is one, does not hold any more. Where
 * another CPU has just done that, its choice holds. Returns the target that does. A function of its
 * own, for the stack's sake; the words are union template_word's.
 */
__attribute__((noinline)) target_t make_template(const struct joiner *joiner, struct template *old,
						 __u64 was_word, __u64 next_word)
{
	union template_word was = { .word = was_word }, next = { .word = next_word };
	struct template fresh = { .target = next.target, .expires = next.expires };
	struct template_key key;

	if (!joiner)
		return next.target;
	if (old && change_template(old, was, next)) {
		witness(old, joiner);
		return next.target;
	}
	key = joiner->key;
	fresh.service = key.service;
	witness(&fresh, joiner);
	if (!old && !bpf_map_update_elem(&new_templates, &key, &fresh, BPF_NOEXIST))
		return next.target;
	if (!old)
		old = find_template(&key);
	if (!old)
		return next.target;
	was = load_template(old);
	return is_current(was.target) ? was.target : next.target;
}

/*
 * The target of a connection: a struct added, with the cell FOUND if a template tells it; or the enum
 * reason why it has none.
 */
static __always_inline __u64 join_template(const struct joiner *joiner,
					   const struct service *service, struct cursor *cursor)
{
	union template_word was = {}, next = { .expires = end_of(service, joiner->now) };
	struct template *template = find_template(&joiner->key);
	union added_word result = {};
	enum reason reason;

	if (template) {
		was = load_template(template);
		if (is_open(service, was.target) &&
		    !is_expired_template(template, was, joiner->now)) {
			next.target = was.target;
			change_template(template, was, next);
			witness(template, joiner);
			result.added = (struct added){ .target = was.target, .cell = FOUND };
			return result.word;
		}
	}
	result.added = (struct added){ .target = joiner->otherwise, .cell = REASON_NO_BACKEND };
	if (joiner->mode == JOIN_FOLLOW)
		return result.word;
	reason = choose_anew(joiner, service, cursor, &next.target);
	if (reason)
		return not_added(reason);
	result.added.target = make_template(joiner, template, was.word, next.word);
	return result.word;
}

/* Keeps the template of a connection that is more than one packet, unless there is one. */
static __always_inline void keep_template(const struct joiner *joiner,
					  const struct service *service)
{
	struct template kept = { .target = joiner->otherwise,
				 .expires = end_of(service, joiner->now),
				 .witness = joiner->hash,
				 .service = joiner->key.service };
	struct template *fresh;

	if (!is_open(service, kept.target) || bpf_map_lookup_elem(&templates, &joiner->key))
		return;
	fresh = bpf_map_lookup_elem(&new_templates, &joiner->key);
	if (fresh && load_template(fresh).target == kept.target)
		kept.expires = load_template(fresh).expires;
	if (!bpf_map_update_elem(&templates, &joiner->key, &kept, BPF_NOEXIST))
		bpf_map_delete_elem(&new_templates, &joiner->key);
	else if (!bpf_map_lookup_elem(&templates, &joiner->key))
		count_eviction(EVICTION_TEMPLATE);
}

static __always_inline struct joiner joiner_of(const struct service *service, flow_hash_t hash,
					       __u64 word)
{
	union joining joining = { .word = word };

	return (struct joiner){ .key.service = service->id,
				.hash = hash,
				.now = now_ticks(),
				.mode = joining.mode,
				.otherwise = joining.otherwise };
}

/*
 * Functions of their own, not inlined, so that packets of known flows do not meet their code, and
 * the verifier goes through it once. The word is a union joining's.
 */

__attribute__((noinline)) __u64 join4(__be32 client, const struct service *service,
				      struct cursor *cursor, flow_hash_t hash, __u64 word)
{
	struct joiner joiner;

	if (!service || !cursor)
		return not_added(REASON_INTERNAL);
	joiner = joiner_of(service, hash, word);
	set_key4(&joiner.key, client, service->prefix);
	return join_template(&joiner, service, cursor);
}

__attribute__((noinline)) __u64 join6(const struct client6 *client, const struct service *service,
				      struct cursor *cursor, flow_hash_t hash, __u64 word)
{
	struct joiner joiner;

	if (!client || !service || !cursor)
		return not_added(REASON_INTERNAL);
	joiner = joiner_of(service, hash, word);
	set_key6(&joiner.key, client, service->prefix);
	return join_template(&joiner, service, cursor);
}

__attribute__((noinline)) int keep4(__be32 client, const struct service *service, flow_hash_t hash,
				    __u64 word)
{
	struct joiner joiner;

	if (!service)
		return 0;
	joiner = joiner_of(service, hash, word);
	set_key4(&joiner.key, client, service->prefix);
	keep_template(&joiner, service);
	return 0;
}

__attribute__((noinline)) int keep6(const struct client6 *client, const struct service *service,
				    flow_hash_t hash, __u64 word)
{
	struct joiner joiner;

	if (!client || !service)
		return 0;
	joiner = joiner_of(service, hash, word);
	set_key6(&joiner.key, client, service->prefix);
	keep_template(&joiner, service);
	return 0;
}

static __always_inline __u32 number_key(const struct template_key *key)
{
	const __u64 *word = (const __u64 *)key->client;

	return mix(word[0] ^ mix(word[1]));
}

__attribute__((noinline)) __u32 number4(__be32 client, __u32 prefix)
{
	struct template_key key = {};

	set_key4(&key, client, prefix);
	return number_key(&key);
}

__attribute__((noinline)) __u32 number6(const struct client6 *client, __u32 prefix)
{
	struct template_key key = {};

	if (!client)
		return 0;
	set_key6(&key, client, prefix);
	return number_key(&key);
}

static __always_inline struct client6 client_of6(const struct packet *p)
{
	struct client6 client;

	__builtin_memcpy(client.address, p->key6.client, sizeof(client.address));
	return client;
}

/* 32 bits that all connections of a client of a persistent service share. */
static __always_inline __u32 number_client(const struct packet *p, struct family family,
					   const struct service *service)
{
	struct client6 client;

	if (!family.is_ip6)
		return number4(p->key4.client, service->prefix);
	client = client_of6(p);
	return number6(&client, service->prefix);
}

/* Where a connection of a persistent service goes: see join_template, and the mode for otherwise. */
static __always_inline struct added join(const struct packet *p, struct family family,
					 const struct service *service, struct cursor *cursor,
					 flow_hash_t hash, enum joining_mode mode,
					 target_t otherwise)
{
	union joining joining = { .otherwise = otherwise, .mode = mode };
	union added_word result;
	struct client6 client;

	if (family.is_ip6) {
		client = client_of6(p);
		result.word = join6(&client, service, cursor, hash, joining.word);
	} else {
		result.word = join4(p->key4.client, service, cursor, hash, joining.word);
	}
	return result.added;
}

/* The same, from and to *target. */
static __always_inline enum reason persist(const struct packet *p, struct family family,
					   const struct service *service, struct cursor *cursor,
					   flow_hash_t hash, enum joining_mode mode,
					   target_t *target)
{
	struct added joined = join(p, family, service, cursor, hash, mode, *target);

	*target = joined.target;
	return *target ? REASON_TX : joined.cell;
}

/* The client has sent more than the flow's first packet. */
static __always_inline void confirm(const struct packet *p, struct family family,
				    const struct service *service, flow_hash_t hash,
				    target_t target)
{
	union joining joining = { .otherwise = target };
	struct client6 client;

	if (family.is_ip6) {
		client = client_of6(p);
		keep6(&client, service, hash, joining.word);
	} else {
		keep4(p->key4.client, service, hash, joining.word);
	}
}

#endif
