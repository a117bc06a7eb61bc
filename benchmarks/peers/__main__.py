"""Print the table."""

from benchmarks.peers.compare import tables

for table in tables():
    print(table.markdown())
