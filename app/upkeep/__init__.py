"""What runs unasked: finding what a dying process or an absent store left behind, watching, reconciling."""
