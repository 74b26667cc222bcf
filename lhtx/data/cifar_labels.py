"""The names of the classes of CIFAR-10 and CIFAR-100 as their files give them, and further labels of CIFAR-10."""

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

DOMAIN = {"animal": "bird cat deer dog frog horse", "vehicle": "airplane automobile ship truck"}
MOBILITY = {"land": "automobile cat deer dog horse truck", "water": "frog ship", "air": "airplane bird"}
SIZE = {"small": "bird cat frog", "medium": "automobile deer dog horse", "large": "airplane ship truck"}
"""Of CIFAR-10: name of a class → the objects in it."""


def class_of_object(label: dict[str, str]) -> list[int]:
    """For each object of CIFAR-10 the class that it has in one of the labels above.

    >>> class_of_object(DOMAIN)
    [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]
    """
    return [next(index for index, members in enumerate(label.values()) if name in members.split()) for name in CIFAR10]


_FINE = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm
"""

_COARSE = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices household_furniture
    insects large_carnivores large_man-made_outdoor_things large_natural_outdoor_scenes large_omnivores_and_herbivores
    medium_mammals non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""

CIFAR100_FINE, CIFAR100_COARSE = _FINE.split(), _COARSE.split()
