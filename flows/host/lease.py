"""One registry writer at a time, across machines: a Prefect concurrency limit, held by a lease that a dead holder cannot keep."""

import contextlib
from collections.abc import Iterator

from flows.host import services, web
from flows.host.masking import masked
from models.core.errors import Unavailable

LEASE_S, WAIT_S = 60.0, 180.0  # the shortest lease that a server grants; longer than a lease, so that a killed holder's runs out


@contextlib.contextmanager
def acquired(name: str, api: str) -> Iterator[None]:
    """Hold the limit `name` of one slot at the Prefect server `api`; it is made where it is missing.

    The lease is renewed while held; where that fails, or nobody could be sure who holds it, the block ends with an error (strict). A server
    keeps leases over its own restart where PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE names its filesystem storage, as our local one's does.
    Raises Unavailable where somebody else holds it for WAIT_S, or nobody answers at `api`; UserError where that is no address.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.concurrency.sync import concurrency
    from prefect.exceptions import PrefectException
    from prefect.settings import PREFECT_API_URL, temporary_settings

    web.PREFECT.check(api)
    with temporary_settings({PREFECT_API_URL: api}):
        slot = concurrency(name, lease_duration=LEASE_S, timeout_seconds=WAIT_S, strict=True)
        try:
            with get_client(sync_client=True) as client:
                client.upsert_global_concurrency_limit_by_name(name, 1)
            slot.__enter__()
        except TimeoutError:
            raise Unavailable(
                f"another process holds {name!r} at {masked(api)} for {WAIT_S:.0f} s: nothing was moved; look again when it is done"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL, PrefectException) as error:
            raise services.no_prefect(api, error) from None
        with contextlib.ExitStack() as stack:
            stack.push(slot)
            yield
