"""A team's servers, its pools of workers, and who may do what with them."""
