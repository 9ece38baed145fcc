/* Accepts every security label, so that tests can put some on: Postgres has no provider of its own that runs without
 * SELinux (src/test/modules/dummy_seclabel is not packaged). */
#include "postgres.h"

#include "commands/seclabel.h"
#include "fmgr.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static void
accept_label(const ObjectAddress *object, const char *label)
{
}

void
_PG_init(void)
{
	register_label_provider("pg_test", accept_label);
}
