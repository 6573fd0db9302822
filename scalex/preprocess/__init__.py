"""From stored values to the model's input, by recipes that are fitted once and then frozen."""

from scalex.preprocess.adt import AdtRecipe
from scalex.preprocess.as_is import AsIsRecipe
from scalex.preprocess.atac import AtacRecipe
from scalex.preprocess.preprocessor import Preprocessor, RowTransform, Scaling
from scalex.preprocess.recipe import FittedRecipe, Recipe
from scalex.preprocess.rna import RnaRecipe

__all__ = ["AdtRecipe", "AsIsRecipe", "AtacRecipe", "FittedRecipe", "Preprocessor", "Recipe", "RnaRecipe", "RowTransform", "Scaling"]
