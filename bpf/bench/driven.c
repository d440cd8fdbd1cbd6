// SPDX-License-Identifier: GPL-2.0-only
/* xdplb inside the driver, on the maps of a pin directory. */
#include "../xdplb.c"
#include "driver.h"

/* Flattened, since a call costs a return thunk (3 ns and more), which xdplb does not pay when attached to an interface. */
__attribute__((flatten)) SEC("xdp.frags") int driven_xdplb(struct xdp_md *ctx)
{
	if (!set_frame(ctx))
		return XDP_ABORTED;
	return judge(xdplb(ctx));
}
