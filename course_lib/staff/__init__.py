"""Tools of the staff: reading the sources, building notebooks, measuring. No notebook of a student imports them."""
