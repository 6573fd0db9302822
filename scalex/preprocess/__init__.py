"""From stored values to the model's input: recipes are fitted once and then frozen."""

from scalex.preprocess.preprocessor import Preprocessor, RowTransform, Scaling
from scalex.preprocess.recipe import AsIsRecipe, FittedRecipe, Recipe, RnaRecipe

__all__ = ["AsIsRecipe", "FittedRecipe", "Preprocessor", "Recipe", "RnaRecipe", "RowTransform", "Scaling"]
