"""The machine of loco-sweep: what runs where, and what is already done."""
