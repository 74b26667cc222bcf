"""The handwritten digits that scikit-learn ships: 1,797 real images of 8×8 pixels, there without a network.

Reads the table out of the installed package without importing it, which would take a hundred times as long.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from lhtx.data.images import ImageDataModule, Part
from lhtx.data.spec import ImageInfo
from lhtx.errors import DatasetError

TABLE = Path("datasets", "data", "digits.csv.gz")
"""Where scikit-learn keeps it: rows of 64 brightnesses 0 … 16, row by row of the image, and the digit."""
BRIGHTEST = 16


class DigitsDataModule(ImageDataModule):
    """Feeds scikit-learn's digits to a network; the head `digit` has 10 classes. There is no test file: the split is random.

    The digits are the test set of the UCI "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak 1998).
    """

    def describe(self) -> ImageInfo:
        """One channel of 8×8, one head."""
        return ImageInfo.of_classes("digits", (1, 8, 8), {"digit": [str(digit) for digit in range(10)]})

    def load(self) -> list[Part]:
        """All samples, brightness 0 … 16 as round(255/16 · brightness). Raises `DatasetError` without scikit-learn."""
        package = find_spec("sklearn")
        places = [Path(place) / TABLE for place in (package.submodule_search_locations or [])] if package else []
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            found = f"there is no {places[0]}" if places else "it is not installed"
            raise DatasetError(f"the digits come with scikit-learn, and {found}; install scikit-learn 1.9")
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
        images = np.rint(table[:, :-1] * (255 / BRIGHTEST)).astype(np.uint8)
        return [Part(images.reshape(-1, 1, 8, 8), {"digit": table[:, -1]})]
