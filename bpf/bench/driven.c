// SPDX-License-Identifier: GPL-2.0-only
/* xdplb inside the driver, on the maps of a pin directory. */
#include "../xdplb.c"
#include "driver.h"

/* Flattened, since xdplb pays for no call of itself when it is attached to an interface. */
SEC("xdp.frags")
__attribute__((flatten)) int driven_xdplb(struct xdp_md *ctx)
{
	if (!set_frame(ctx))
		return XDP_ABORTED;
	return judge(xdplb(ctx));
}
