"""Loads the bench's customers with dlt, as its documentation has it: a generator of pages, merged by their id.

Arguments: the addresses of listing and database, the schema, how many records there are. Prints the seconds of the run alone.
"""

import json
import sys
import time

import dlt
from dlt.sources.helpers import requests

url, database, schema, wanted = *sys.argv[1:4], int(sys.argv[4])


# Nested objects stay JSON, as with us: dlt would make more columns and tables of them, and take longer.
@dlt.resource(name="customers", primary_key="id", write_disposition="merge", max_table_nesting=0)
def customers():
    params = {"limit": 100}
    while True:
        page = requests.get(url, params=params).json()
        yield page["data"]
        if not page["has_more"]:
            return
        params["starting_after"] = page["data"][-1]["id"]


pipeline = dlt.pipeline(
    pipeline_name="bench",
    destination=dlt.destinations.postgres(database),
    dataset_name=schema,
)
begun = time.monotonic()
info = pipeline.run(customers())
seconds = time.monotonic() - begun
info.raise_on_failed_jobs()
rows = pipeline.last_trace.last_normalize_info.row_counts["customers"]
assert rows == wanted, rows
print(json.dumps({"seconds": seconds, "rows": rows, "version": dlt.__version__}))
