"""What is paired: the emoji that people ask for together, by the first of their names, and where they wear what."""


def listed(names: str) -> list[str]:
    return [" ".join(name.split()) for name in names.split(",")]


ANIMALS = listed("""
    cat face, cat, black cat, dog face, dog, poodle, tiger face, tiger, lion, leopard, rabbit face, rabbit, mouse face, mouse,
    cow face, cow, pig face, pig, monkey face, monkey, horse face, horse, unicorn, fox, wolf, bear, polar bear, panda, koala,
    hamster, frog, raccoon, penguin, owl, front-facing baby chick, hatching chick, baby chick, chicken, rooster, duck, bird,
    parrot, eagle, flamingo, swan, peacock, elephant, giraffe, zebra, rhinoceros, hippopotamus, kangaroo, llama, camel, goat,
    hedgehog, sloth, beaver, gorilla, deer, snake, turtle, crocodile, lizard, dragon, dragon face, sauropod, t-rex, whale,
    spouting whale, dolphin, shark, octopus, fish, tropical fish, blowfish, crab, lobster, squid, jellyfish, snail, butterfly,
    honeybee, lady beetle, ant, spider, bat""")
BEINGS = listed("""
    robot, ghost, alien, alien monster, snowman without snow, skull, clown face, pile of poo, jack-o-lantern, teddy bear,
    santa claus, sun with face, astronaut, ninja, mage, superhero, princess, prince, mermaid, vampire, zombie, fairy, elf""")
PEOPLE = listed("man, woman, boy, girl, baby, old man, old woman")
FACES = listed("""
    grinning face, slightly smiling face, smiling face with smiling eyes, winking face, crying face, loudly crying face,
    angry face, enraged face, astonished face, face with tears of joy, smiling face with heart-eyes,
    smiling face with sunglasses, sleeping face, thinking face, star-struck, cowboy hat face, nerd face""")
FOOD = listed("""
    red apple, green apple, pear, banana, strawberry, tangerine, lemon, watermelon, grapes, cherries, peach, pineapple,
    coconut, kiwi fruit, mango, tomato, avocado, eggplant, carrot, ear of corn, hot pepper, cucumber, broccoli, potato, onion,
    mushroom, bread, croissant, pretzel, pancakes, waffle, cheese wedge, egg, cooking, hamburger, french fries, pizza,
    hot dog, sandwich, taco, burrito, sushi, popcorn, soft ice cream, ice cream, doughnut, cookie, birthday cake, shortcake,
    cupcake, pie, chocolate bar, candy, lollipop, honey pot, hot beverage, teapot, beer mug, wine glass, cocktail glass,
    tropical drink, glass of milk, bubble tea, spaghetti, cooked rice""")
PLANTS = listed("""
    rose, tulip, sunflower, hibiscus, blossom, cherry blossom, bouquet, cactus, deciduous tree, evergreen tree, palm tree,
    four leaf clover, maple leaf, potted plant, christmas tree""")
NATURE = listed("""
    sun, star, glowing star, cloud, rainbow, crescent moon, snowflake, fire, high voltage, droplet, ringed planet, volcano,
    mountain, house, house with garden, castle, tent""")
VEHICLES = listed("""
    rocket, flying saucer, airplane, helicopter, automobile, sport utility vehicle, taxi, police car, bus, fire engine,
    ambulance, delivery truck, pickup truck, tractor, racing car, locomotive, bicycle, motorcycle, motor scooter,
    kick scooter, skateboard, sailboat, ship, speedboat""")
HEARTS = listed("red heart, orange heart, yellow heart, green heart, blue heart, purple heart, pink heart, broken heart")
WORN = listed("crown, sunglasses, glasses, top hat, woman's hat, billed cap, graduation cap, ribbon")
OBJECTS = listed("""
    guitar, violin, trumpet, saxophone, drum, musical note, key, old key, camera, light bulb, candle, soccer ball, basketball,
    baseball, american football, balloon, wrapped gift, kite, magic wand, crystal ball, video game, game die, trophy,
    sports medal, ring, gem stone, handbag, backpack, umbrella, t-shirt, dress, jeans, running shoe, high-heeled shoe, scarf,
    watch, alarm clock, telephone, mobile phone, laptop, television, radio, headphone, microphone, open book, books,
    newspaper, envelope, love letter, package, pencil, crayon, paintbrush, artist palette, scissors, hammer, wrench,
    axe, dagger, shield, bomb, magnet, telescope, microscope, bell, chair, bed, bathtub, toilet, door, broom,
    basket, bucket, toothbrush, money bag, coin, anchor, compass, boxing glove, kitchen knife, spoon""")
GROUPS = [ANIMALS, BEINGS, PEOPLE, FACES, FOOD, PLANTS, NATURE, VEHICLES, HEARTS, WORN, OBJECTS]

HOLDERS = [*ANIMALS, *listed("""
    robot, ghost, alien, alien monster, snowman without snow, skull, clown face, pile of poo, teddy bear, jack-o-lantern,
    grinning face, slightly smiling face, crying face, angry face, winking face""")]  # fmt: skip
HANDY = [*HEARTS, *listed("""
    balloon, wrapped gift, star, guitar, violin, trumpet, drum, key, camera, light bulb, candle, soccer ball, basketball, kite,
    magic wand, crystal ball, video game, trophy, ring, gem stone, handbag, backpack, umbrella, mobile phone, laptop,
    microphone, open book, books, newspaper, envelope, love letter, pencil, paintbrush, scissors, hammer, axe, dagger, shield,
    bomb, magnet, telescope, bell, broom, basket, bucket, money bag, coin, boxing glove, spoon, skateboard, rocket, bicycle,
    rose, tulip, sunflower, bouquet, blossom, four leaf clover, cactus, teddy bear, fire, high voltage,
    red apple, banana, strawberry, watermelon, carrot, mushroom, pear, cheese wedge, hamburger, french fries, pizza, hot dog,
    soft ice cream, doughnut, cookie, birthday cake, cupcake, lollipop, candy, hot beverage, beer mug, wine glass,
    bubble tea, honey pot, egg""")]  # fmt: skip
GIFTS = [*HEARTS, *listed("balloon, star, wrapped gift, rose, sunflower, guitar, birthday cake")]

WEARERS: dict[str, tuple[tuple[int, int, int] | None, tuple[int, int, int] | None]] = {
    "cat face": ((50, 58, 66), (50, 34, 46)),
    "dog face": ((50, 42, 62), (50, 20, 52)),
    "tiger face": ((50, 48, 66), (50, 17, 46)),
    "rabbit face": ((50, 58, 60), (50, 35, 42)),
    "mouse face": ((50, 69, 56), (50, 42, 44)),
    "cow face": ((50, 45, 58), (50, 21, 44)),
    "pig face": ((50, 50, 66), (50, 20, 50)),
    "monkey face": ((50, 49, 58), (50, 24, 52)),
    "fox": ((50, 58, 60), (50, 30, 40)),
    "wolf": ((50, 48, 58), (50, 29, 38)),
    "bear": ((50, 51, 62), (50, 23, 46)),
    "polar bear": ((50, 51, 62), (50, 23, 46)),
    "panda": ((50, 52, 68), (50, 23, 48)),
    "koala": ((50, 58, 68), (50, 26, 46)),
    "hamster": ((50, 61, 62), (50, 37, 44)),
    "frog": ((50, 30, 80), (50, 27, 42)),
    "lion": ((50, 45, 58), (50, 16, 50)),
    "raccoon": ((50, 62, 62), (50, 28, 46)),
    "penguin": ((50, 33, 42), (50, 25, 36)),
    "owl": ((50, 30, 68), (50, 13, 48)),
    "front-facing baby chick": ((50, 30, 42), (50, 18, 36)),
    "hatching chick": ((50, 24, 44), (50, 13, 38)),
    "baby chick": (None, (33, 16, 36)),
    "duck": (None, (35, 12, 30)),
    "parrot": (None, (38, 11, 36)),
    "t-rex": (None, (25, 16, 34)),
    "teddy bear": ((50, 27, 42), (50, 13, 36)),
    "octopus": ((50, 42, 72), (50, 16, 46)),
    "robot": ((50, 44, 74), (50, 20, 52)),
    "ghost": ((50, 27, 56), (50, 15, 46)),
    "alien": ((50, 51, 84), (50, 15, 54)),
    "alien monster": ((50, 47, 58), (50, 27, 36)),
    "snowman without snow": ((50, 29, 36), None),
    "skull": ((50, 50, 80), (50, 14, 56)),
    "clown face": ((50, 36, 76), (50, 13, 52)),
    "pile of poo": ((50, 60, 68), (54, 32, 40)),
    "jack-o-lantern": ((51, 44, 70), (50, 28, 48)),
    "sun with face": ((50, 39, 72), (50, 16, 52)),
    "santa claus": ((50, 42, 62), None),
    "grinning face": ((50, 33, 86), (50, 15, 56)),
    "grinning face with big eyes": ((50, 33, 86), (50, 15, 56)),
    "beaming face with smiling eyes": ((50, 42, 86), (50, 15, 56)),
    "grinning squinting face": ((50, 42, 86), (50, 15, 56)),
    "slightly smiling face": ((50, 38, 86), (50, 15, 56)),
    "smiling face with smiling eyes": ((50, 38, 86), (50, 15, 56)),
    "winking face": ((50, 43, 86), (50, 15, 56)),
    "kissing face": ((50, 37, 86), (50, 15, 56)),
    "face with tongue": ((50, 36, 86), (50, 15, 56)),
    "neutral face": ((50, 37, 86), (50, 15, 56)),
    "crying face": ((50, 44, 86), (50, 15, 56)),
    "angry face": ((50, 51, 86), (50, 15, 56)),
    "enraged face": ((50, 49, 86), (50, 15, 56)),
    "astonished face": ((50, 44, 86), (50, 15, 56)),
    "slightly frowning face": ((50, 44, 86), (50, 15, 56)),
    "frowning face": ((50, 37, 86), (50, 15, 56)),
    "face with tears of joy": (None, (50, 15, 56)),
    "loudly crying face": (None, (50, 15, 56)),
    "smiling face with heart-eyes": (None, (50, 15, 56)),
    "star-struck": (None, (50, 15, 56)),
}
"""In hundredths of the picture's side: the middle of the eyes and how wide glasses are; where a hat's brim is and how wide a
crown. None where there is no place for them."""

HATS: dict[str, tuple[float, float]] = {
    "crown": (1.0, 0.96),
    "top hat": (1.2, 0.92),
    "woman's hat": (1.35, 0.82),
    "billed cap": (1.05, 0.94),
    "graduation cap": (1.4, 0.7),
    "ribbon": (0.85, 0.72),
}
"""How wide beside a crown, and how far down the hat is what lies on the head."""
GLASSES = ["sunglasses", "glasses"]
