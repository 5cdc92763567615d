"""Recipes: whole degradations, as papers and libraries define them."""
