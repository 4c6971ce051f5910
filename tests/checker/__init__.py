"""The checker: a writer that numbers every block it writes, and a judge that reads them all back.

Runs inside an initiator under Debian's plain Python: standard library only, nothing imported from the product.
"""
