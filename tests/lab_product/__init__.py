"""The product on the lab: what the demo and the tests do with real gateways and a real initiator."""
