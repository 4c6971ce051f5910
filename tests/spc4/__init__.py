"""What SPC-4 says about persistent reservations, as a model, and the means to hold a real target against it."""
