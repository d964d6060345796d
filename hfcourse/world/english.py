"""How the world speaks: facts as sentences, in several wordings, and the questions that ask for them."""

STATEMENTS = {
    "town": ("{name} lives in {value}.", "The home of {name} is in {value}.", "{name} has a house in {value}."),
    "job": ("{name} is a {value}.", "{name} works as a {value}.", "The job of {name} is that of a {value}."),
    "pet": ("{name} has a {value}.", "The pet of {name} is a {value}.", "At home {name} keeps a {value}."),
    "colour": (
        "The favourite colour of {name} is {value}.",
        "{name} likes the colour {value} best.",
        "{name} often wears {value} clothes.",
    ),
    "food": (
        "{name} likes to eat {value}.",
        "The favourite food of {name} is {value}.",
        "{name} eats {value} every day.",
    ),
}

QUESTIONS = {
    "town": ("Where does {name} live?", "In which town does {name} live?"),
    "job": ("What is the job of {name}?", "What does {name} work as?"),
    "pet": ("What pet does {name} have?", "Which animal does {name} keep?"),
    "colour": ("What is the favourite colour of {name}?", "Which colour does {name} like best?"),
    "food": ("What does {name} like to eat?", "What is the favourite food of {name}?"),
}

# What a person answers, in the words of the question.
ANSWERS = {attribute: wordings[0] for attribute, wordings in STATEMENTS.items()}

FEELING_STORIES = {
    "happy": (
        "{name} got a letter from a friend and smiled all day.",
        "{name} won a prize and danced in the garden.",
    ),
    "sad": (
        "{name} lost a dear old book and cried a little.",
        "The friend of {name} moved away, and {name} wept.",
    ),
    "angry": (
        "Somebody broke the window of {name}, who shouted.",
        "{name} slammed the door and stamped a foot.",
    ),
    "afraid": ("{name} heard a strange noise in the dark and hid.", "{name} saw a wolf and trembled."),
    "proud": (
        "{name} finished a long wall and showed it to everyone.",
        "{name} learned to swim and told the town.",
    ),
    "tired": ("{name} worked all night and yawned.", "After the long walk {name} wanted nothing but a bed."),
}

THINGS = ("apples", "eggs", "books", "coins", "shells", "stones", "nuts", "plums")


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]


def lower_first(text: str, names: tuple[str, ...]) -> str:
    """The text as it goes on after a comma: a small first letter, unless it begins with a name or with "I"."""
    first = text.split(" ", 1)[0].strip(".,!?")
    return text if first in names or first == "I" else text[:1].lower() + text[1:]
