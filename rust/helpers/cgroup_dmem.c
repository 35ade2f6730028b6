// SPDX-License-Identifier: GPL-2.0

#include <linux/cgroup_dmem.h>

__rust_helper struct dmem_cgroup_region *
rust_helper_dmem_cgroup_register(const struct dmem_cgroup_init *init,
				 const char *name)
{
	return dmem_cgroup_register_region(init, "%s", name);
}

/* The remaining ones are inline only without CONFIG_CGROUP_DMEM. */

__rust_helper void
rust_helper_dmem_cgroup_unregister(struct dmem_cgroup_region *region)
{
	dmem_cgroup_unregister_region(region);
}

__rust_helper int
rust_helper_dmem_cgroup_charge_mm(struct dmem_cgroup_region *region,
				  struct mm_struct *mm, u64 size,
				  struct dmem_cgroup_pool_state **pool,
				  struct dmem_cgroup_pool_state **limit)
{
	return dmem_cgroup_try_charge_mm(region, mm, size, pool, limit);
}

__rust_helper void
rust_helper_dmem_cgroup_discharge(struct dmem_cgroup_pool_state *pool, u64 size)
{
	dmem_cgroup_uncharge(pool, size);
}

__rust_helper void
rust_helper_dmem_cgroup_put(struct dmem_cgroup_pool_state *pool)
{
	dmem_cgroup_pool_state_put(pool);
}

__rust_helper bool
rust_helper_dmem_cgroup_may_evict(struct dmem_cgroup_pool_state *limit,
				  struct dmem_cgroup_pool_state *victim,
				  bool ignore_low, bool *hit_low)
{
	return dmem_cgroup_state_evict_valuable(limit, victim, ignore_low,
						hit_low);
}
