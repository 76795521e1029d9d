"""School word problems with worked steps, generated from templates written for this package.

A template draws its numbers, tells a story, and records its steps as arithmetic that `Draw.step` evaluates
while writing it down, so no result in a text is ever typed by hand. Draws that lead to untidy results
(fractions of a cent, endless decimals) are thrown away and made again. Layout, connectives, operator signs
and currency vary from problem to problem, so that no fixed marker gives the source away.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, comb, gcd, lcm

Value = int | Fraction


@dataclass(frozen=True)
class WordProblem:
    template: str
    text: str


class RedrawError(Exception):
    """The numbers drawn do not make a tidy problem."""


class Number(Fraction):
    """A rational number written as a decimal; a plain Fraction is written as a fraction."""

    def __str__(self) -> str:
        return f"{float(self):.3f}".rstrip("0").rstrip(".").replace("-", "−")


class Money(Fraction):
    """An amount in whole cents; the dollar sign stands for whichever currency the problem uses."""

    def __str__(self) -> str:
        return f"${self.numerator}" if self.denominator == 1 else f"${float(self):.2f}"


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = words(
    "Aisha Alma Amir Anders Anjali Anton Beatriz Bruno Camille Carlos Chiara Chidi Clara Dalia Daniel Diego "
    "Ebba Elena Emil Esra Farid Fatima Felix Freya Gabriel Greta Hana Hassan Hugo Ida Imani Ines Ingrid "
    "Isaac Ivan Jamal Jana Jonas Julia Kaito Karim Katya Kofi Lars Leila Liam Lina Lucia Mads Malik Maren "
    "Marta Mateo Mei Milan Mina Nadia Naomi Nikhil Noor Nora Olga Omar Oscar Paula Pedro Priya Rafael Rosa "
    "Ruth Samir Sanna Sofia Stefan Tariq Tessa Theo Tomas Uma Vera Viktor Wanda Yara Yusuf Zofia Zuri"
)
TOWNS = words(
    "Alderton Ashmere Birchwood Brookvale Cedarton Clayford Dunmore Eastholm Elmsted Fairwick Greystone "
    "Harrowby Hillcrest Ironbridge Kestrel Lakeside Larkfield Marlow Millbrook Northgate Oakford Pinehurst "
    "Redcliff Riverton Saltmarsh Silverlea Stonebury Thornhill Westbay Willowby"
)
STATIONERY = (
    "notebook",
    "pencil case",
    "sketch pad",
    "folder",
    "ruler",
    "marker set",
    "stapler",
    "glue stick",
)
FRUIT = ("apples", "pears", "plums", "oranges", "peaches", "apricots", "kiwis", "mangoes", "figs", "lemons")
KEEPSAKES = ("stamp", "seashell", "postcard", "coin", "sticker", "badge", "marble", "trading card", "pebble")
CLOTHES = ("coat", "sweater", "raincoat", "jacket", "backpack", "tracksuit", "wool blanket", "suitcase")
GADGETS = (
    "bicycle",
    "camera",
    "keyboard",
    "telescope",
    "guitar",
    "skateboard",
    "tent",
    "drone",
    "sewing machine",
)
CRAFTS = ("candle", "clay bowl", "wooden spoon", "necklace", "tote bag", "birdhouse", "keyring", "shawl")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "purple", "orange")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
CLUBS = (
    "chess club",
    "drama club",
    "hiking group",
    "school choir",
    "robotics team",
    "book circle",
    "swim team",
)

OPENERS = (
    "", "", "", "", "Solution.", "Solution:", "Working.", "Working it out:", "Here is one way to do it.",
    "Let us take it one step at a time.", "We can work this out in stages.", "Start from what is known.",
    "The plan is to go step by step.", "Explanation:", "How to get there:", "Reasoning.",
)  # fmt: skip
CLOSERS = (
    "{}", "{}", "So {}", "Therefore, {}", "Answer: {}", "In the end, {}", "This means that {}", "Hence {}",
    "Thus {}", "It follows that {}", "The answer is that {}", "We conclude that {}", "As a result, {}",
)  # fmt: skip
FIRST = ("", "First, ", "To begin with, ", "We first see that ", "We first note that ", "At the start, ")
MIDDLE = ("", "", "Then ", "Next, ", "Now ", "After that, ", "Afterwards, ")
LAST = ("", "Finally, ", "So ", "Then ", "Lastly, ")
MARKERS = (None, None, None, "", "", "- ", "{}. ", "{}) ", "Step {}: ", "({}) ")


def show(value: Value) -> str:
    return str(value).replace("-", "−")


def sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".?!:" else text + "."


def tidy(value: Fraction, parts: Sequence[object]) -> Value:
    """The value in the manner its operands call for; a value that cannot be written neatly is refused."""
    money = isinstance(parts[0], Money)
    for operator, operand in zip(parts[1::2], parts[2::2], strict=True):
        if operator in "+−":
            break
        money += isinstance(operand, Money) * (1 if operator == "×" else -1)
    if money:
        if (value * 100).denominator != 1 or value < 0:
            raise RedrawError
        return Money(value)
    if value.denominator == 1:
        return int(value)
    plain = any(type(part) is Fraction for part in parts)
    if value.denominator > 100 if plain else (value * 1000).denominator != 1:
        raise RedrawError
    return value if plain else Number(value)


class Draw:
    """What a template draws from and writes to."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.names = iter(source.sample(NAMES, 8))
        self.towns = iter(source.sample(TOWNS, 8))
        self.twelve_hours = source.random() < 0.5
        self.told = self.conclusion = ""
        self.steps: list[str] = []

    def whole(self, low: int, high: int, step: int = 1) -> int:
        return self.source.randrange(low, high + 1, step)

    def money(self, low: int, high: int, step: int = 50) -> Money:
        """An amount between low and high, both in cents."""
        return Money(self.whole(low, high, step), 100)

    def choice(self, *options):
        return self.source.choice(options)

    def sample(self, bank: Sequence[str], count: int) -> list[str]:
        return self.source.sample(bank, count)

    def name(self) -> str:
        return next(self.names)

    def town(self) -> str:
        return next(self.towns)

    def proper(self, largest: int) -> Fraction:
        """A fraction between 0 and 1 in lowest terms."""
        bottom = self.whole(3, largest)
        top = self.whole(1, bottom - 1)
        self.need(gcd(top, bottom) == 1)
        return Fraction(top, bottom)

    def clock(self, minutes: Value) -> str:
        hour, minute = divmod(int(minutes), 60)
        hour %= 24
        if not self.twelve_hours:
            return f"{hour:02}:{minute:02}"
        return f"{(hour - 1) % 12 + 1}:{minute:02} {'a.m.' if hour < 12 else 'p.m.'}"

    def percent(self, rate: int) -> tuple:
        """The tail of a step that takes this percentage of what stands before it."""
        return self.choice(("×", rate, "÷", 100), ("×", Number(rate, 100)))

    def need(self, condition: bool) -> None:
        if not condition:
            raise RedrawError

    def story(self, *versions: str) -> None:
        self.told = self.choice(*versions)

    def say(self, clause: str) -> None:
        self.steps.append(clause)

    def step(self, clause: str, *parts):
        """Evaluate parts, a chain such as 3, "×", 14, and write it with its value where the clause has #."""
        terms = [Fraction(parts[0])]
        for operator, operand in zip(parts[1::2], parts[2::2], strict=True):
            if operator == "×":
                terms[-1] *= operand
            elif operator == "÷":
                terms[-1] /= operand
            else:
                terms.append(Fraction(operand if operator == "+" else -operand))
        value = tidy(sum(terms, Fraction(0)), parts)
        chain = " ".join(part if isinstance(part, str) else show(part) for part in parts)
        self.steps.append(clause.replace("#", f"{chain} = {show(value)}"))
        return value

    def answer(self, clause: str) -> None:
        self.conclusion = clause

    def text(self) -> str:
        opener, closer, marker = self.choice(*OPENERS), self.choice(*CLOSERS), self.choice(*MARKERS)
        steps = self.steps
        if not marker and self.source.random() < 0.6:
            links = [self.choice(*FIRST), *self.sample(MIDDLE, len(steps) - 2), self.choice(*LAST)]
            steps = [link + step for link, step in zip(links, steps, strict=True)]
        steps = [sentence(step) for step in steps]
        end = sentence(closer.format(self.conclusion))
        if marker is None:
            working = " ".join(filter(None, [opener, *steps])) + self.choice(" ", " ", "\n", "\n\n") + end
        else:
            lines = [marker.format(number) + step for number, step in enumerate(steps, 1)]
            working = "\n".join(filter(None, [opener, *lines, end]))
        text = self.told + self.choice("\n\n", "\n\n", "\n", "\n" if marker is not None else " ") + working
        # "1 marble(s)" and "4 marble(s)" are how templates leave the plural to the number drawn.
        text = re.sub(r"(?<![\d./])1((?: [a-z]+){1,3})\(s\)", r"1\1", text).replace("(s)", "s")
        text = text.replace(".m..", ".m.")
        # Beside a fraction such as 3/4 a slash for division would be misread.
        division = ("÷",) if re.search(r"\d/\d", text) else ("÷", "/")
        signs = {"×": ("×", "*"), "÷": division, "−": ("−", "-"), "$": ("$", "$", "£", "€")}
        for sign, spellings in signs.items():
            text = text.replace(sign, self.choice(*spellings))
        return text


Template = Callable[[Draw], None]
TEMPLATES: dict[str, Template] = {}


def template(function: Template) -> Template:
    TEMPLATES[function.__name__] = function
    return function


# Addition, subtraction, comparison


@template
def bus_stops(d: Draw) -> None:
    start, off, on, last = d.whole(18, 45), d.whole(3, 12), d.whole(4, 15), d.whole(2, 9)
    here, there, further = d.town(), d.town(), d.town()
    d.story(
        f"A bus leaves {here} with {start} passengers. At {there}, {off} people get off and {on} get on. At "
        f"{further} another {last} people get off. How many passengers are still on the bus?",
        f"When the morning bus pulls out of {here}, {start} seats are taken. The driver counts {off} people "
        f"leaving and {on} boarding in {there}, and {last} more leaving in {further}. How many passengers "
        f"remain?",
    )
    rest = d.step(f"after people get off at {there} there are # passengers", start, "−", off)
    rest = d.step("with the new passengers the bus carries # people", rest, "+", on)
    rest = d.step(f"the stop at {further} leaves # people", rest, "−", last)
    d.answer(f"{rest} passengers are still on the bus")


@template
def mountain_walk(d: Draw) -> None:
    start, up, down, summit = (d.whole(*limits, 10) for limits in ((400, 900), (250, 600), (60, 200), (1700, 2400)))
    who = d.name()
    d.story(
        f"{who} sets out from a hut at an altitude of {start} m. The trail climbs {up} m, drops {down} m "
        f"into a valley, and then goes straight up to a summit at {summit} m. How many metres of climbing "
        f"are there after the valley, and how many in the whole walk?"
    )
    ridge = d.step("the top of the first climb lies at # m", start, "+", up)
    valley = d.step("the valley lies at # m", ridge, "−", down)
    final = d.step("the last climb is # m", summit, "−", valley)
    total = d.step("the two climbs add up to # m", up, "+", final)
    d.answer(f"{who} climbs {final} m after the valley and {total} m in all")


@template
def collections_compared(d: Draw) -> None:
    first, more, fewer, thing = d.whole(30, 90), d.whole(8, 40), d.whole(5, 28), d.choice(*KEEPSAKES)
    ann, ben, cal = d.name(), d.name(), d.name()
    d.story(
        f"{ann} has {first} {thing}s. {ben} has {more} more {thing}s than {ann}, and {cal} has {fewer} "
        f"fewer than {ben}. How many {thing}s do the three of them have together?",
        f"Three friends compare their {thing}s. {ann} counts {first}; {ben} counts {more} more than that; "
        f"{cal} is {fewer} short of {ben}'s number. What is the size of the three collections put together?",
    )
    second = d.step(f"{ben} has # {thing}s", first, "+", more)
    third = d.step(f"{cal} has # {thing}s", second, "−", fewer)
    total = d.step(f"together they have # {thing}s", first, "+", second, "+", third)
    d.answer(f"the three friends own {total} {thing}s")


# Buying and selling


@template
def stationery_change(d: Draw) -> None:
    many, few, note = d.whole(2, 6), d.whole(2, 4), d.choice(20, 50, 100)
    cheap, dear, who = d.money(80, 450, 5), d.money(300, 900, 25), d.name()
    one, two = d.sample(STATIONERY, 2)
    d.need(many * cheap + few * dear < note)
    d.story(
        f"{who} buys {many} {one}s at {cheap} each and {few} {two}s at {dear} each. The cashier is handed a "
        f"{Money(note)} note. How much change should {who} get?",
        f"A {one} costs {cheap} and a {two} costs {dear}. {who} needs {many} of the first and {few} of the "
        f"second for school and pays with {Money(note)}. What change comes back?",
    )
    first = d.step(f"the {one}s cost #", many, "×", cheap)
    second = d.step(f"the {two}s cost #", few, "×", dear)
    bill = d.step("the bill comes to #", first, "+", second)
    d.answer(f"{who} gets {d.step('the change is #', Money(note), '−', bill)} back")


@template
def as_many_as_possible(d: Draw) -> None:
    purse, fixed, each = Money(d.whole(30, 80)), d.money(850, 2200, 50), d.money(150, 480, 10)
    who, one = d.name(), d.choice(*STATIONERY)
    count = (purse - fixed) // each
    d.story(
        f"With {purse} to spend, {who} first buys a dictionary for {fixed}. The rest goes on {one}s at "
        f"{each} apiece, as many as the money allows. How many {one}s is that, and how much money is left "
        f"over?"
    )
    rest = d.step("the dictionary leaves #", purse, "−", fixed)
    spent = d.step(f"{count} {one}s cost #, and one more would be too many", count, "×", each)
    left = d.step("the money left over is #", rest, "−", spent)
    d.answer(f"{who} can buy {count} {one}s and keeps {left}")


@template
def sale_price(d: Draw) -> None:
    price, rate, many = d.money(2000, 12000, 500), d.whole(5, 60, 5), d.whole(2, 4)
    thing, who = d.choice(*CLOTHES), d.name()
    d.story(
        f"A {thing} normally costs {price}. This week the shop takes {rate}% off. How much does {who} pay "
        f"for {many} of them during the sale?",
        f"The label on a {thing} says {price}, but a sign promises a discount of {rate}%. {who} takes "
        f"{many}, one for each member of the family. What is the total at the till?",
    )
    cut = d.step("the discount on one is #", price, *d.percent(rate))
    sale = d.step("one costs # in the sale", price, "−", cut)
    total = d.step(f"{many} of them cost #", many, "×", sale)
    d.answer(f"{who} pays {total}")


@template
def two_discounts(d: Draw) -> None:
    price, first, second = d.money(4000, 40000, 1000), d.whole(10, 50, 10), d.whole(5, 25, 5)
    thing, town = d.choice(*GADGETS), d.town()
    d.story(
        f"A shop in {town} marks a {thing} down by {first}% from {price}. Members of its loyalty club get a "
        f"further {second}% off the reduced price. What does a member pay, and how much is saved in all?"
    )
    cut = d.step("the first discount is #", price, *d.percent(first))
    middle = d.step("the reduced price is #", price, "−", cut)
    more = d.step("the members' discount is #", middle, *d.percent(second))
    final = d.step("a member pays #", middle, "−", more)
    saved = d.step("the two savings add up to #", cut, "+", more)
    d.answer(f"a member pays {final} for the {thing} and saves {saved}")


@template
def price_before_sale(d: Draw) -> None:
    price, rate, thing = d.money(2000, 30000, 500), d.whole(10, 60, 5), d.choice(*GADGETS, *CLOTHES)
    who = d.name()
    paid = Money(price * (100 - rate) / 100)
    d.need((paid * 100).denominator == 1)
    d.story(
        f"{who} paid {paid} for a {thing} that had been reduced by {rate}%. What was its price before the reduction?",
        f"After {rate}% was taken off, a {thing} cost {who} {paid}. Find the original price.",
    )
    share = d.step("the part still paid, in percent, is #", 100, "−", rate)
    one = d.step("one percent of the old price is #", paid, "÷", share)
    d.step("one hundred percent is therefore #", one, "×", 100)
    d.step("as a check, the reduced price is #", price, "×", Number(share, 100))
    d.answer(f"the {thing} cost {price} before the reduction")


@template
def restaurant_tip(d: Draw) -> None:
    friends, rate = d.whole(3, 6), d.choice(10, 12, 15, 18, 20)
    meal, drinks, who = d.money(4000, 12000, 100), d.money(1200, 3600, 100), d.name()
    d.story(
        f"{who} and some friends, {friends} people in all, have dinner. The food costs {meal} and the drinks "
        f"{drinks}. They add a tip of {rate}% and split the total evenly. How much does each person pay?"
    )
    bill = d.step("the bill without the tip is #", meal, "+", drinks)
    tip = d.step("the tip is #", bill, *d.percent(rate))
    total = d.step("with the tip the total is #", bill, "+", tip)
    each = d.step("each share is #", total, "÷", friends)
    d.answer(f"everyone pays {each}")


@template
def sales_tax(d: Draw) -> None:
    many, rate, each = d.whole(2, 8), d.whole(4, 12), d.money(1000, 4500, 100)
    coupon = d.money(300, 1000, 100)
    thing, who = d.choice(*CRAFTS), d.name()
    d.story(
        f"{who} orders {many} {thing}s at {each} each and uses a coupon worth {coupon}. Sales tax of "
        f"{rate}% is charged on what remains. What is the final amount?",
        f"An online order lists {many} {thing}s for {each} apiece. A coupon lowers the sum by {coupon}, and "
        f"then tax of {rate}% is added. How much is {who} charged?",
    )
    goods = d.step(f"the {thing}s cost #", many, "×", each)
    net = d.step("the coupon lowers this to #", goods, "−", coupon)
    tax = d.step("the tax is #", net, *d.percent(rate))
    d.answer(f"{who} is charged {d.step('goods and tax together make #', net, '+', tax)}")


@template
def craft_stall_profit(d: Draw) -> None:
    made, cost, price = d.whole(20, 60), d.money(150, 400, 10), d.money(600, 1200, 50)
    rent = d.money(1500, 4500, 500)
    sold, thing, who = made - d.whole(2, 8), d.choice(*CRAFTS), d.name()
    d.need(sold * price > made * cost + rent)
    d.story(
        f"{who} makes {made} {thing}s for a market; the material for each costs {cost}, and the stall costs "
        f"{rent} for the day. At the end of the day {sold} have been sold at {price} each. What is the "
        f"profit?"
    )
    material = d.step("the material costs #", made, "×", cost)
    spent = d.step("with the stall the expenses are #", material, "+", rent)
    income = d.step("the sales bring in #", sold, "×", price)
    d.answer(f"{who} makes a profit of {d.step('the difference is #', income, '−', spent)}")


@template
def loss_in_percent(d: Draw) -> None:
    old, rate, repair = d.whole(80, 600, 20), d.whole(5, 45, 5), d.whole(20, 60, 5)
    thing, who = d.choice(*GADGETS), d.name()
    price = Number((old + repair) * (100 - rate), 100)
    d.need(price.denominator == 1)
    d.story(
        f"{who} bought a used {thing} for {Money(old)}, had it repaired for {Money(repair)}, and later sold "
        f"it for {Money(price)}. What percentage of the money put in was lost?"
    )
    put = d.step("the money put in is #", Money(old), "+", Money(repair))
    lost = d.step("the loss is #", put, "−", Money(price))
    share = d.step("as a part of the money put in, the loss is #", lost, "÷", put)
    d.step("written out of one hundred, this is # percent", share, "×", 100)
    d.answer(f"{who} lost {rate}% of the money")


@template
def foreign_currency(d: Draw) -> None:
    home, rate, spent = d.whole(100, 600, 20), Number(d.whole(105, 950, 5), 100), d.whole(40, 90)
    who, coin = d.name(), d.choice("kroner", "francs", "pesos", "lira", "rand")
    d.story(
        f"Before a trip {who} changes {home} euros at a rate of {rate} {coin} to the euro. On the trip "
        f"{spent}% of that money is spent, and the rest is changed back at the same rate. How many euros "
        f"does {who} get back?"
    )
    abroad = d.step(f"the exchange gives # {coin}", home, "×", rate)
    used = d.step(f"the trip costs # {coin}", abroad, *d.percent(spent))
    left = d.step(f"what is left is # {coin}", abroad, "−", used)
    back = d.step("changing back gives # euros", left, "÷", rate)
    d.answer(f"{who} gets {back} euros back")


# Tariffs and tiers


@template
def water_bill(d: Draw) -> None:
    limit, low, high = d.whole(8, 20), d.money(110, 240, 5), d.money(260, 420, 5)
    used, fixed, who = limit + d.whole(3, 18), d.money(400, 1200, 50), d.name()
    d.story(
        f"A water company charges {low} per cubic metre for the first {limit} cubic metres and {high} for "
        f"every cubic metre beyond that, plus a monthly fee of {fixed}. Last month {who} used {used} cubic "
        f"metres. How large is the bill?"
    )
    base = d.step("the first part costs #", limit, "×", low)
    over = d.step("the use beyond the limit is # cubic metres", used, "−", limit)
    extra = d.step("this costs a further #", over, "×", high)
    d.answer(f"{who} has to pay {d.step('with the fee the bill is #', base, '+', extra, '+', fixed)}")


@template
def parking_fee(d: Draw) -> None:
    first, later, cap = d.money(200, 500, 50), d.money(100, 240, 20), Money(d.whole(11, 18))
    arrival, hours, minutes = d.whole(7 * 60, 12 * 60, 5), d.whole(3, 7), d.whole(5, 55, 5)
    d.story(
        f"A car park charges {first} for the first hour and {later} for each further hour or part of an "
        f"hour, but never more than {cap} a day. A driver comes in at {d.clock(arrival)} and leaves at "
        f"{d.clock(arrival + 60 * hours + minutes)}. What does the driver pay?"
    )
    d.say(f"the car stays for {hours} hours and {minutes} minutes, which starts {hours + 1} hours")
    rest = d.step("the later hours cost #", hours, "×", later)
    total = d.step("with the first hour the fee would be #", first, "+", rest)
    d.say(f"this is {'above' if total > cap else 'not above'} the daily limit of {cap}")
    d.answer(f"the driver pays {min(total, cap)}")


@template
def two_phone_plans(d: Draw) -> None:
    months, low, high = d.whole(3, 12), d.whole(8, 15), d.whole(18, 30)
    setup, one = months * (high - low), d.choice("Comet", "Orbit", "Nova")
    two = d.choice("Breeze", "Delta", "Swift")
    d.story(
        f"The phone plan {one} costs {Money(setup)} once and {Money(low)} a month. The plan {two} has no "
        f"setup fee but costs {Money(high)} a month. After how many months have both plans cost the same?"
    )
    gap = d.step(f"each month {two} costs # more", Money(high), "−", Money(low))
    d.step("the setup fee is used up after # months", Money(setup), "÷", gap)
    d.step(f"as a check, {one} has then cost #", Money(setup), "+", months, "×", Money(low))
    d.step(f"{two} has cost #", months, "×", Money(high))
    d.answer(f"the plans have cost the same after {months} months")


@template
def taxi_ride(d: Draw) -> None:
    base, each, distance, who = d.money(250, 600, 50), d.money(120, 280, 10), d.whole(4, 30), d.name()
    fare = Money(base + distance * each)
    d.story(
        f"A taxi charges a base fare of {base} and {each} for each kilometre. {who} pays {fare} for a ride "
        f"from {d.town()} to {d.town()}. How long was the ride?",
        f"{who}'s taxi receipt shows {fare}. The company asks {base} for getting in and {each} per "
        f"kilometre driven. How many kilometres did the taxi drive?",
    )
    d.say(f"if k is the number of kilometres, then {base} + {each} × k is the fare of {fare}")
    part = d.step("the kilometres alone cost #", fare, "−", base)
    length = d.step("the number of kilometres is #", part, "÷", each)
    d.answer(f"the ride was {length} km long")


# Ratio and sharing


@template
def ratio_of_three(d: Draw) -> None:
    a, b, c = d.sample(range(1, 8), 3)
    d.need(gcd(a, b, c) == 1)
    total, (ann, ben, cal) = (a + b + c) * d.whole(6, 45), (d.name(), d.name(), d.name())
    d.story(
        f"{ann}, {ben} and {cal} share a prize of {Money(total)} in the ratio {a}:{b}:{c}. How much does "
        f"each of them receive?",
        f"A prize of {Money(total)} is divided so that the shares of {ann}, {ben} and {cal} are in the "
        f"ratio {a}:{b}:{c}. Work out the three shares.",
    )
    parts = d.step("the number of equal parts is #", a, "+", b, "+", c)
    part = d.step("one part is worth #", Money(total), "÷", parts)
    shares = [d.step(f"{who} receives #", n, "×", part) for who, n in ((ann, a), (ben, b), (cal, c))]
    d.answer(f"the shares are {shares[0]} for {ann}, {shares[1]} for {ben} and {shares[2]} for {cal}")


@template
def ratio_from_difference(d: Draw) -> None:
    small, large, part = d.whole(2, 6), d.whole(5, 11), d.whole(4, 30)
    d.need(small < large and gcd(small, large) == 1)
    town = d.town()
    one, two = d.sample(("teachers", "parents", "runners", "cyclists", "swimmers", "singers"), 2)
    gap = (large - small) * part
    d.story(
        f"At a festival in {town} the ratio of {one} to {two} is {large} to {small}. There are {gap} more "
        f"{one} than {two}. How many people of both kinds are there?"
    )
    parts = d.step("the difference in parts is #", large, "−", small)
    part = d.step("one part stands for # people", gap, "÷", parts)
    both = d.step("both groups together make # parts", large, "+", small)
    d.answer(f"there are {d.step('the total is # people', both, '×', part)} people in the two groups")


@template
def shares_with_conditions(d: Draw) -> None:
    base, more, thing = d.whole(12, 45), d.whole(4, 20), d.choice(*KEEPSAKES)
    ann, ben, cal = d.name(), d.name(), d.name()
    total = 4 * base + more
    d.story(
        f"{total} {thing}s are shared among {ann}, {ben} and {cal}. {ben} gets twice as many as {ann}, and "
        f"{cal} gets {more} more than {ann}. How many does each get?"
    )
    d.say(f"if {ann} gets n, the others get 2n and n + {more}, so that 4n + {more} is {total}")
    four = d.step("without the extra ones there are #", total, "−", more)
    one = d.step(f"{ann} gets # {thing}s", four, "÷", 4)
    two = d.step(f"{ben} gets # {thing}s", 2, "×", one)
    three = d.step(f"{cal} gets # {thing}s", one, "+", more)
    d.answer(f"{ann} gets {one}, {ben} {two} and {cal} {three} {thing}s")


# Rates, speed and work


@template
def better_buy(d: Draw) -> None:
    small, large = d.whole(2, 6), d.whole(7, 15)
    one, two = Money(small * d.whole(80, 200, 5), 100), Money(large * d.whole(80, 200, 5), 100)
    thing, who = d.choice("rice", "flour", "dog food", "washing powder", "potting soil", "oats"), d.name()
    d.need(one / small != two / large and one < two)
    d.story(
        f"A shop sells {thing} in bags of {small} kg for {one} and in bags of {large} kg for {two}. {who} "
        f"wants the lower price per kilogram. Which bag should {who} choose, and what is the difference per "
        f"kilogram?"
    )
    first = d.step("in the small bag a kilogram costs #", one, "÷", small)
    second = d.step("in the large bag a kilogram costs #", two, "÷", large)
    gap = d.step("the difference is #", max(first, second), "−", min(first, second))
    d.answer(f"the {'small' if first < second else 'large'} bag is cheaper, by {gap} per kilogram")


@template
def factory_machines(d: Draw) -> None:
    machines, hours, rate = d.whole(3, 8), d.whole(2, 6), d.whole(12, 60)
    more, longer = d.whole(2, 6), d.whole(4, 10)
    thing = d.choice("bolts", "buttons", "caps", "cups", "tiles", "lids")
    made = machines * hours * rate
    d.story(
        f"In {hours} hours, {machines} identical machines make {made} {thing}. At the same pace, how many "
        f"{thing} do {machines + more} such machines make in {longer} hours?",
        f"A workshop runs {machines} machines of one kind, and in {hours} hours they turn out {made} "
        f"{thing}. It then buys {more} more of these machines. What is the output of all of them in "
        f"{longer} hours?",
    )
    each = d.step(f"in one hour the machines make # {thing}", made, "÷", hours)
    one = d.step(f"a single machine makes # {thing} an hour", each, "÷", machines)
    count = d.step("the number of machines is now #", machines, "+", more)
    total = d.step(f"together they make # {thing}", count, "×", longer, "×", one)
    d.answer(f"they make {total} {thing}")


@template
def average_speed(d: Draw) -> None:
    slow, fast, first, second = d.whole(30, 60, 5), d.whole(70, 120, 5), d.whole(1, 4), d.whole(1, 4)
    start, end, who = d.town(), d.town(), d.name()
    d.story(
        f"{who} drives from {start} to {end}. For {first} hour(s) the road winds through hills and the car "
        f"averages {slow} km/h; for the next {second} hour(s) it averages {fast} km/h on a motorway. What is "
        f"the average speed over the whole trip?"
    )
    hills = d.step("in the hills the car covers # km", first, "×", slow)
    flat = d.step("on the motorway it covers # km", second, "×", fast)
    total = d.step("the whole distance is # km", hills, "+", flat)
    hours = d.step("the whole time is # hours", first, "+", second)
    d.answer(f"the average speed is {d.step('distance over time gives # km/h', total, '÷', hours)} km/h")


@template
def trains_meeting(d: Draw) -> None:
    one, two, hours, start = d.whole(60, 110, 5), d.whole(75, 140, 5), d.whole(2, 5), d.whole(6, 14) * 60
    here, there = d.town(), d.town()
    gap = (one + two) * hours
    d.story(
        f"{here} and {there} are {gap} km apart. At {d.clock(start)} a train leaves {here} at {one} km/h, "
        f"and at the same moment another leaves {there} at {two} km/h on the parallel track. When do they "
        f"meet, and how far from {here}?"
    )
    close = d.step("every hour the gap shrinks by # km", one, "+", two)
    time = d.step("the trains meet after # hours", gap, "÷", close)
    far = d.step("by then the first train has gone # km", one, "×", time)
    d.answer(f"they meet {far} km from {here} at {d.clock(start + 60 * time)}")


@template
def late_start(d: Draw) -> None:
    slow, quicker, head = d.whole(4, 18), d.whole(2, 12), d.whole(1, 6)
    d.need(slow * head % quicker == 0 and slow * head // quicker < 9)
    fast, one, two = slow + quicker, d.name(), d.name()
    d.story(
        f"{one} sets off along a canal path at {slow} km/h. {two} starts from the same place {head} hour(s) "
        f"later and follows at {fast} km/h. How long does {two} need to catch up, and how far from the start "
        f"does it happen?"
    )
    lead = d.step(f"{one} has a lead of # km", slow, "×", head)
    gain = d.step(f"{two} gains # km every hour", fast, "−", slow)
    time = d.step("the lead is gone after # hour(s)", lead, "÷", gain)
    far = d.step(f"in that time {two} covers # km", fast, "×", time)
    d.answer(f"{two} catches up after {time} hour(s), {far} km from the start")


@template
def arrival_time(d: Draw) -> None:
    speed, distance, rest = d.whole(48, 100, 4), d.whole(60, 320, 4), d.whole(10, 45, 5)
    start, here, there = d.whole(6 * 60, 13 * 60, 5), d.town(), d.town()
    d.need(distance * 60 % speed == 0)
    d.story(
        f"A coach leaves {here} at {d.clock(start)} for {there}, {distance} km away. It travels at a steady "
        f"{speed} km/h and stops once for {rest} minutes. At what time does it arrive?",
        f"The road from {here} to {there} is {distance} km long. A lorry sets out at {d.clock(start)}, "
        f"averages {speed} km/h while moving, and the driver takes a break of {rest} minutes. When is the "
        f"lorry in {there}?",
    )
    minutes = d.step("the driving time in minutes is #", distance, "×", 60, "÷", speed)
    total = d.step("with the stop the trip takes # minutes", minutes, "+", rest)
    hours, left = divmod(total, 60)
    d.step("split into hours and minutes, this is #", hours, "×", 60, "+", left)
    d.answer(f"the arrival is at {d.clock(start + total)}")


@template
def river_boat(d: Draw) -> None:
    boat, river, hours = d.whole(10, 24), d.whole(2, 6), d.whole(2, 6)
    distance, who, pier = (boat + river) * hours, d.name(), d.town()
    d.need(distance % (boat - river) == 0)
    d.story(
        f"{who}'s boat makes {boat} km/h in still water. The current of the river flows at {river} km/h. "
        f"{who} goes {distance} km downstream to {pier} and comes back. How long is {who} on the water?"
    )
    down = d.step("downstream the boat makes # km/h", boat, "+", river)
    up = d.step("upstream it makes # km/h", boat, "−", river)
    there = d.step("the way there takes # hours", distance, "÷", down)
    back = d.step("the way back takes # hours", distance, "÷", up)
    d.answer(f"{who} is on the water for {d.step('together this is # hours', there, '+', back)} hours")


@template
def painting_together(d: Draw) -> None:
    one, two = d.whole(3, 15), d.whole(4, 24)
    job = d.choice("paint a fence", "mow a meadow", "clear a barn", "sort the mail")
    d.need(one < two and (one * two) % (one + two) == 0)
    ann, ben = d.name(), d.name()
    d.story(
        f"{ann} needs {one} hours to {job}; {ben} needs {two} hours for the same job. How long do they need "
        f"if they work side by side, each at the usual pace?"
    )
    d.say(f"in one hour {ann} does {Fraction(1, one)} of the job and {ben} does {Fraction(1, two)}")
    rate = d.step("together they do # of the job in an hour", Fraction(1, one), "+", Fraction(1, two))
    time = d.step("the whole job takes # hours", 1, "÷", rate)
    d.answer(f"{ann} and {ben} need {time} hours together")


@template
def crew_and_days(d: Draw) -> None:
    crew, days, extra = d.whole(4, 15), d.whole(6, 20), d.whole(2, 10)
    d.need(crew * days % (crew + extra) == 0)
    town = d.town()
    job = d.choice("a footpath", "a playground", "a stone wall", "a wooden bridge", "a bus shelter")
    d.story(
        f"In {town}, {crew} workers can build {job} in {days} days. The town sends {extra} additional "
        f"workers from the first day. How many days earlier is the work finished, if everyone works at the "
        f"same pace?"
    )
    work = d.step("the job takes # days of one worker's time", crew, "×", days)
    all_of_them = d.step("the larger crew has # workers", crew, "+", extra)
    time = d.step("this crew needs # days", work, "÷", all_of_them)
    d.answer(f"the work is finished {d.step('the time saved is # days', days, '−', time)} days earlier")


# Tanks and liquids


@template
def leaking_tank(d: Draw) -> None:
    fill, leak, minutes = d.whole(12, 40), d.whole(2, 9), d.whole(15, 60, 5)
    start = d.whole(20, 200, 10)
    full, town = start + (fill - leak) * minutes, d.town()
    d.story(
        f"A water tank in {town} holds {full} litres and already contains {start} litres. A pipe pours in "
        f"{fill} litres a minute, but a crack lets {leak} litres a minute escape. How long does it take to "
        f"fill the tank?",
        f"A pump delivers {fill} litres a minute into a {full}-litre tank that has a leak of {leak} litres "
        f"a minute. If {start} litres are in the tank at the start, after how many minutes is it full?",
    )
    net = d.step("every minute the tank gains # litres", fill, "−", leak)
    room = d.step("the space to be filled is # litres", full, "−", start)
    d.answer(f"the tank is full after {d.step('this takes # minutes', room, '÷', net)} minutes")


@template
def swimming_pool_level(d: Draw) -> None:
    length, width, deep = d.whole(6, 25), d.whole(4, 12), Number(d.whole(10, 24, 2), 10)
    flow = d.whole(4, 20) * 500
    town = d.town()
    d.story(
        f"A swimming pool in {town} is {length} m long and {width} m wide. It is to be filled to a depth of "
        f"{deep} m at a rate of {flow} litres an hour. How many hours does that take? One cubic metre is "
        f"1000 litres."
    )
    volume = d.step("the volume of water is # cubic metres", length, "×", width, "×", deep)
    litres = d.step("in litres this is #", volume, "×", 1000)
    hours = d.step("the filling takes # hours", litres, "÷", flow)
    d.answer(f"filling the pool takes {hours} hours")


@template
def salt_water(d: Draw) -> None:
    strong, weak, start = d.whole(8, 40), d.whole(2, 20), d.whole(100, 900, 50)
    d.need(weak < strong and start * strong % weak == 0)
    d.story(
        f"A laboratory bottle contains {start} g of salt water that is {strong}% salt by mass. How much pure "
        f"water must be added to bring it down to {weak}%?"
    )
    salt = d.step("the bottle contains # g of salt", start, *d.percent(strong))
    total = d.step(f"this salt is {weak}% of # g", salt, "÷", Number(weak, 100))
    d.answer(f"{d.step('the water to be added is # g', total, '−', start)} g of water must be added")


@template
def tea_blend(d: Draw) -> None:
    one, two, kilos, more = d.money(800, 1600, 50), d.money(1800, 3600, 50), d.whole(2, 9), d.whole(2, 9)
    town = d.town()
    plain, fine = d.sample(("black tea", "green tea", "mint tea", "fennel tea", "rooibos"), 2)
    d.story(
        f"A tea shop in {town} blends {kilos} kg of {plain} at {one} per kilogram with {more} kg of {fine} "
        f"at {two} per kilogram. What does a kilogram of the blend cost?"
    )
    first = d.step(f"the {plain} costs #", kilos, "×", one)
    second = d.step(f"the {fine} costs #", more, "×", two)
    total = d.step("the blend costs # in all", first, "+", second)
    weight = d.step("it weighs # kg", kilos, "+", more)
    d.answer(f"the blend costs {d.step('a kilogram costs #', total, '÷', weight)} per kilogram")


# Ages and averages


@template
def parent_and_child(d: Draw) -> None:
    child, times, later = d.whole(4, 14), d.whole(3, 6), d.whole(2, 12)
    gap = (times - 1) * child
    d.need(22 <= gap <= 40)
    parent, young = d.name(), d.name()
    d.story(
        f"{parent} is {times} times as old as {young}, and {gap} years older. How old will each of them be "
        f"in {later} years?",
        f"There are {gap} years between {parent} and {young}. At present {parent}'s age is {times} times "
        f"{young}'s. What will their ages be {later} years from now?",
    )
    parts = d.step(f"the gap is # times {young}'s age", times, "−", 1)
    now = d.step(f"{young} is now # years old", gap, "÷", parts)
    old = d.step(f"{parent} is now # years old", times, "×", now)
    child = d.step(f"{young} will be #", now, "+", later)
    adult = d.step(f"{parent} will be #", old, "+", later)
    d.answer(f"in {later} years {young} will be {child} and {parent} will be {adult} years old")


@template
def twice_as_old(d: Draw) -> None:
    young, gap, old_one, young_one = d.whole(3, 18), d.whole(20, 35), d.name(), d.name()
    d.need(gap > young)
    d.story(
        f"{old_one} is {young + gap} years old and {young_one} is {young}. In how many years will {old_one} "
        f"be exactly twice as old as {young_one}?"
    )
    gap = d.step("the difference in age never changes and is # years", young + gap, "−", young)
    d.say(f"one age is twice the other when {young_one} is as old as this difference")
    wait = d.step(f"{young_one} reaches the age of {gap} after # year(s)", gap, "−", young)
    d.step(f"as a check, {old_one} will then be #", young + gap, "+", wait)
    d.answer(f"this happens in {wait} year(s)")


@template
def score_needed(d: Draw) -> None:
    scores, goal, who = [d.whole(62, 95) for _ in range(d.whole(3, 5))], d.whole(75, 90), d.name()
    tests = len(scores) + 1
    listed = ", ".join(map(str, scores[:-1])) + f" and {scores[-1]}"
    d.need(50 <= goal * tests - sum(scores) <= 100)
    d.story(
        f"{who} has scored {listed} points in the tests of this term. One more test is coming. How many "
        f"points are needed in it for an average of exactly {goal}?"
    )
    total = d.step(f"{tests} tests with this average have # points", tests, "×", goal)
    chain = [part for score in scores for part in ("+", score)][1:]
    so_far = d.step("the points so far are #", *chain)
    d.answer(f"{who} needs {d.step('the last test must bring # points', total, '−', so_far)} points")


@template
def two_groups_average(d: Draw) -> None:
    one, two, low, high = d.whole(8, 25), d.whole(8, 25), d.whole(130, 149), d.whole(150, 172)
    town = d.town()
    d.need(one != two)
    d.story(
        f"At a sports day in {town}, the average height of the {one} younger pupils is {low} cm, and that of "
        f"the {two} older pupils is {high} cm. What is the average height of all the pupils?"
    )
    first = d.step("the heights of the younger pupils add up to # cm", one, "×", low)
    second = d.step("those of the older pupils add up to # cm", two, "×", high)
    total = d.step("all the heights make # cm", first, "+", second)
    count = d.step("the number of pupils is #", one, "+", two)
    d.answer(f"the average height is {d.step('the average is # cm', total, '÷', count)} cm")


# Geometry


@template
def garden_from_perimeter(d: Draw) -> None:
    width, more = d.whole(4, 30), d.whole(2, 18)
    crop = d.choice("potatoes", "carrots", "beans", "onions", "beets")
    perimeter, who, yield_ = 4 * width + 2 * more, d.name(), d.whole(2, 6)
    d.story(
        f"{who}'s rectangular vegetable garden is {more} m longer than it is wide, and its perimeter is "
        f"{perimeter} m. Each square metre gives {yield_} kg of {crop}. How large is the harvest?"
    )
    half = d.step("length and width together are # m", perimeter, "÷", 2)
    twice = d.step("without the extra length, two widths are # m", half, "−", more)
    width = d.step("the width is # m", twice, "÷", 2)
    length = d.step("the length is # m", width, "+", more)
    area = d.step("the area is # square metres", length, "×", width)
    d.answer(f"the garden gives {d.step('the harvest is # kg', area, '×', yield_)} kg of {crop}")


@template
def fence_with_gate(d: Draw) -> None:
    length, width, gate, price = d.whole(20, 60), d.whole(10, 40), d.whole(2, 5), d.money(600, 2400, 50)
    fixed, who = Money(d.whole(80, 250, 10)), d.name()
    animal = d.choice("hens", "rabbits", "alpacas", "geese")
    d.story(
        f"{who} fences a rectangular run for {animal}, {length} m by {width} m, and leaves an opening of "
        f"{gate} m for a gate. Fencing costs {price} per metre and the gate costs {fixed}. What is the "
        f"total cost?",
        f"A run for {animal} measures {length} m by {width} m. All of its edge is to be fenced at {price} "
        f"per metre except for {gate} m, where {who} hangs a gate costing {fixed}. How much does everything "
        f"cost?",
    )
    half = d.step("one long and one short side make # m", length, "+", width)
    edge = d.step("the perimeter is # m", 2, "×", half)
    fence = d.step("the fence itself is # m", edge, "−", gate)
    cost = d.step("the fencing costs #", fence, "×", price)
    d.answer(f"everything costs {d.step('with the gate the total is #', cost, '+', fixed)}")


@template
def fence_posts(d: Draw) -> None:
    space, across, along, each = d.whole(2, 5), d.whole(4, 15), d.whole(6, 20), d.money(400, 1500, 50)
    d.need(across < along)
    length, width, town = along * space, across * space, d.town()
    d.story(
        f"A field near {town} is {length} m long and {width} m wide. Posts are set all around its edge, "
        f"{space} m apart, with one at every corner. A post costs {each}. How many posts are needed, and "
        f"what do they cost?"
    )
    edge = d.step("the edge of the field is # m", 2, "×", length, "+", 2, "×", width)
    posts = d.step("around a closed edge there are as many posts as gaps, that is #", edge, "÷", space)
    d.answer(f"{posts} posts are needed, at a cost of {d.step('the posts cost #', posts, '×', each)}")


@template
def floor_tiles(d: Draw) -> None:
    tile, across, along, spare = d.choice(20, 25, 30, 40, 50), d.whole(6, 16), d.whole(8, 24), d.whole(3, 15)
    length, width, pack = Number(tile * along, 100), Number(tile * across, 100), d.whole(6, 12)
    room = d.choice("kitchen", "bathroom", "hallway", "laundry room", "porch")
    d.story(
        f"A {room} is {length} m long and {width} m wide. It is tiled with square tiles whose sides are "
        f"{tile} cm, and {spare} spare tiles are kept. The tiles come in packs of {pack}. How many packs "
        f"have to be bought?"
    )
    rows = d.step("along the length there are # tiles", length, "×", 100, "÷", tile)
    columns = d.step("along the width there are # tiles", width, "×", 100, "÷", tile)
    count = d.step("the floor and the spare ones take # tiles", rows, "×", columns, "+", spare)
    packs = ceil(count / pack)
    d.step(f"{packs} packs hold # tiles, and one pack fewer would be too few", packs, "×", pack)
    d.answer(f"{packs} packs have to be bought")


@template
def path_around(d: Draw) -> None:
    length, width, path = d.whole(8, 30), d.whole(5, 20), d.whole(1, 3)
    centre, stone = d.choice("pond", "lawn", "flower bed", "sandpit"), d.whole(12, 40)
    d.story(
        f"A rectangular {centre} measures {length} m by {width} m. Around it runs a gravel path {path} m "
        f"wide. What is the area of the path, and how much gravel is needed at {stone} kg per square metre?"
    )
    long = d.step("with the path the length is # m", length, "+", 2, "×", path)
    wide = d.step("with the path the width is # m", width, "+", 2, "×", path)
    outer = d.step("the whole area is # square metres", long, "×", wide)
    inner = d.step(f"the {centre} covers # square metres", length, "×", width)
    area = d.step("the path covers # square metres", outer, "−", inner)
    gravel = d.step("the gravel weighs # kg", area, "×", stone)
    d.answer(f"the path has an area of {area} square metres and takes {gravel} kg of gravel")


@template
def crate_of_cubes(d: Draw) -> None:
    side, (a, b, c) = d.choice(5, 8, 10, 12, 15), (d.whole(3, 12) for _ in range(3))
    taken, thing = d.whole(5, 26), d.choice("gift boxes", "wooden cubes", "soap cartons", "puzzle boxes")
    d.story(
        f"A crate is {a * side} cm long, {b * side} cm wide and {c * side} cm high inside. It is filled "
        f"completely with {thing} in the shape of cubes with an edge of {side} cm. How many are still inside "
        f"after {taken} are taken out?"
    )
    along = d.step("along the length fit #", a * side, "÷", side)
    across = d.step("along the width fit #", b * side, "÷", side)
    up = d.step("the number of layers is #", c * side, "÷", side)
    total = d.step(f"the full crate holds # {thing}", along, "×", across, "×", up)
    d.answer(f"{d.step('what stays inside is #', total, '−', taken)} {thing} are still in the crate")


@template
def wheel_turns(d: Draw) -> None:
    radius, turns, who = d.whole(14, 49, 7), d.whole(150, 900, 50), d.name()
    vehicle = d.choice("bicycle", "wheelbarrow", "cart", "unicycle", "scooter")
    d.story(
        f"The wheel of {who}'s {vehicle} has a radius of {radius} cm. How many metres does it roll in "
        f"{turns} turns? Use {Fraction(22, 7)} for pi."
    )
    across = d.step("the diameter is # cm", 2, "×", radius)
    around = d.step("one turn covers # cm", Fraction(22, 7), "×", across)
    way = d.step("all the turns cover # cm", turns, "×", around)
    d.answer(f"the {vehicle} rolls {d.step('in metres this is #', way, '÷', 100)} m")


# Fractions


@template
def fraction_of_the_rest(d: Draw) -> None:
    one, two, total, who = d.proper(6), d.proper(6), Money(d.whole(60, 600, 12)), d.name()
    first, second = d.sample(("rent", "food", "travel", "clothing", "furniture", "heating"), 2)
    d.story(
        f"{who} has {total}. {one} of it goes on {first}, and then {two} of what is left goes on {second}. "
        f"How much money remains?"
    )
    spent = d.step(f"{first} costs #", one, "×", total)
    rest = d.step("this leaves #", total, "−", spent)
    more = d.step(f"{second} costs #", two, "×", rest)
    d.answer(f"{who} still has {d.step('the money remaining is #', rest, '−', more)}")


@template
def book_from_fraction(d: Draw) -> None:
    part, days, who = d.proper(8), d.whole(2, 8), d.name()
    pages = part.denominator * d.whole(20, 60)
    rest = pages - int(part * pages)
    d.story(
        f"{who} has read {part} of a novel and has {rest} pages to go. How many pages does the novel have, "
        f"and how many pages a day are needed to finish it in {days} days?",
        f"A bookmark shows that {who} is through {part} of a book; the other {rest} pages are unread. Find "
        f"the length of the book, and the number of pages a day that will finish it in {days} days.",
    )
    left = d.step("the unread part is # of the book", 1, "−", part)
    total = d.step("the whole book has # pages", rest, "÷", left)
    daily = d.step("each day takes # pages", rest, "÷", days)
    d.need(isinstance(daily, int))
    d.answer(f"the book has {total} pages, and {daily} pages a day will do")


@template
def fraction_of_fraction(d: Draw) -> None:
    one, two, club = d.proper(8), d.proper(5), d.choice(*CLUBS)
    total = one.denominator * two.denominator * d.whole(2, 9)
    skill = d.choice("play the piano", "speak Spanish", "wear glasses", "walk to school", "own a pet")
    d.story(
        f"The {club} has {total} members. {one} of them are adults, and {two} of the adults {skill}. What "
        f"fraction of the club is that, and how many people are they?"
    )
    both = d.step("as a fraction of the whole club this is #", two, "×", one)
    count = d.step("the number of these adults is #", both, "×", total)
    adults = d.step("in another way, there are # adults", one, "×", total)
    d.step("the same number comes out as #", two, "×", adults)
    d.answer(f"{both} of the club, or {count} people, are adults who {skill}")


@template
def find_the_start(d: Draw) -> None:
    left, spent, extra = d.whole(6, 40), d.whole(5, 30), d.whole(4, 25)
    who, one, two = d.name(), *d.sample(STATIONERY, 2)
    start = Money(2 * (left + spent - extra))
    d.need(start > 10)
    d.story(
        f"{who} spent half of the money in a purse on a {one}. An aunt then gave {who} {Money(extra)}. After "
        f"paying {Money(spent)} for a {two}, {who} had {Money(left)}. How much money was in the purse at the "
        f"start?"
    )
    before = d.step(f"before the {two} there was #", Money(left), "+", Money(spent))
    half = d.step("before the gift there was #", before, "−", Money(extra))
    start = d.step("that was one half, so the purse began with #", 2, "×", half)
    d.answer(f"the purse held {start} at the start")


@template
def number_machine(d: Draw) -> None:
    number, times, minus, share = d.whole(4, 40), d.whole(3, 9), d.whole(2, 30), d.whole(2, 6)
    d.need((number * times - minus) % share == 0 and number * times > minus)
    result, who = (number * times - minus) // share, d.name()
    d.story(
        f"{who} thinks of a number, multiplies it by {times}, subtracts {minus} and divides what is left by "
        f"{share}. The result is {result}. What was the number?"
    )
    back = d.step("undoing the division gives #", result, "×", share)
    back = d.step("undoing the subtraction gives #", back, "+", minus)
    number = d.step("undoing the multiplication gives #", back, "÷", times)
    d.answer(f"{who} thought of {number}")


# Time, calendar, temperature


@template
def film_evening(d: Draw) -> None:
    start, long, adverts = d.whole(17 * 60, 20 * 60, 5), d.whole(85, 170), d.whole(8, 20)
    pause = d.whole(10, 25, 5)
    town = d.town()
    d.story(
        f"The evening show at the cinema in {town} begins at {d.clock(start)} with {adverts} minutes of "
        f"advertisements. The film runs for {long} minutes, with a pause of {pause} minutes in the middle. "
        f"When does the show end?"
    )
    total = d.step("the show lasts # minutes", adverts, "+", long, "+", pause)
    hours = total // 60
    d.step("in full hours this contains # minutes", hours, "×", 60)
    d.step("beyond them there are # minute(s)", total, "−", 60 * hours)
    d.answer(f"the show ends at {d.clock(start + total)}")


@template
def weekday_later(d: Draw) -> None:
    today, weeks, days, who = d.whole(0, 6), d.whole(2, 40), d.whole(1, 6), d.name()
    wait, event = 7 * weeks + days, d.choice("a concert", "an exam", "a wedding", "a journey", "a birthday")
    d.story(
        f"Today is {WEEKDAYS[today]}, and {who} is counting the days to {event} that is exactly {wait} days "
        f"away. On which day of the week does it fall?"
    )
    full = d.step(f"{weeks} full weeks are # days and change nothing about the weekday", weeks, "×", 7)
    rest = d.step("beyond the full weeks there are # day(s)", wait, "−", full)
    day = WEEKDAYS[(today + rest) % 7]
    d.say(f"counting {rest} day(s) on from {WEEKDAYS[today]} leads to {day}")
    d.answer(f"the day of the event is a {day}")


@template
def night_shift(d: Draw) -> None:
    start, hours, half = d.whole(19, 22), d.whole(7, 9), d.choice(0, 30)
    pause, wage, nights, who = d.choice(30, 45, 60), d.whole(14, 28, 2), d.whole(3, 6), d.name()
    minutes = 60 * hours + half
    job = d.choice("nurse", "baker", "security guard", "night porter", "train dispatcher")
    d.story(
        f"{who}, a {job}, works from {d.clock(60 * start)} until {d.clock(60 * start + minutes)} with an "
        f"unpaid break of {pause} minutes. The pay is {Money(wage)} per hour. How much does {who} earn in "
        f"{nights} such nights?"
    )
    d.step("from start to end there are # minutes", hours, "×", 60, "+", half)
    paid = d.step("the paid time is # minutes", minutes, "−", pause)
    night = d.step("one night earns #", paid, "×", Money(wage), "÷", 60)
    d.answer(f"{who} earns {d.step('all the nights earn #', nights, '×', night)}")


@template
def lights_together(d: Draw) -> None:
    one, two, start = d.whole(6, 30), d.whole(8, 40), d.whole(18, 22) * 60
    d.need(one < two and gcd(one, two) > 1 and two % one)
    here, there, common = d.town(), d.town(), lcm(one, two)
    d.story(
        f"Two buses share a stop. The bus to {here} leaves every {one} minutes and the bus to {there} every "
        f"{two} minutes. Both leave together at {d.clock(start)}. When do they next leave together?"
    )
    d.say(f"the waiting time is the least number that both {one} and {two} divide")
    d.step(f"it is a multiple of {one}, as #", one, "×", common // one)
    d.step(f"it is also a multiple of {two}, as #", two, "×", common // two)
    d.say(f"the factors {common // one} and {common // two} share no divisor, so nothing smaller will do")
    d.answer(f"the buses next leave together {common} minutes later, at {d.clock(start + common)}")


@template
def cold_night(d: Draw) -> None:
    noon, fall, hours, rise, town = d.whole(3, 14), d.whole(2, 4), d.whole(4, 8), d.whole(3, 16), d.town()
    d.need(fall * hours > noon)
    d.story(
        f"At dusk it is {noon} °C in {town}. Through the night the temperature falls by {fall} degrees an "
        f"hour for {hours} hours. By the next noon it has risen again by {rise} degrees. What is the "
        f"temperature then?",
        f"A weather station in {town} reads {noon} °C in the evening. For {hours} hours it grows colder by "
        f"{fall} degrees each hour; in the morning it warms by {rise} degrees. What does the station read "
        f"at the end?",
    )
    drop = d.step("the temperature falls by # degrees", hours, "×", fall)
    low = d.step("the coldest reading is # °C", noon, "−", drop)
    d.answer(f"the temperature is {show(d.step('after the warming it is # °C', low, '+', rise))} °C")


@template
def fahrenheit(d: Draw) -> None:
    first, second, here, there = d.whole(5, 40, 5), d.whole(41, 104), d.town(), d.town()
    d.need((second - 32) % 9 == 0)
    d.story(
        f"It is {first} °C in {here}, while a thermometer in {there} shows {second} °F. To turn degrees "
        f"Celsius into degrees Fahrenheit, multiply by 9, divide by 5 and add 32. In which town is it "
        f"warmer, and by how many degrees Celsius?"
    )
    d.need(first != (second - 32) * 5 // 9)
    above = d.step(f"for {there}, undo the rule by first taking # degrees", second, "−", 32)
    other = d.step(f"this means that {there} has # °C", above, "×", 5, "÷", 9)
    gap = d.step("the difference is # degree(s) Celsius", max(first, other), "−", min(first, other))
    d.answer(f"it is warmer in {here if first > other else there}, by {gap} degree(s) Celsius")


# Money over time


@template
def simple_interest(d: Draw) -> None:
    sum_, rate, years, who = d.whole(200, 5000, 100), Number(d.whole(2, 14), 2), d.whole(2, 8), d.name()
    d.story(
        f"{who} puts {Money(sum_)} into an account that pays {rate}% simple interest a year. How much is in "
        f"the account after {years} years if nothing is taken out?",
        f"A loan of {Money(sum_)} runs for {years} years at {rate}% simple interest per year. How much does "
        f"{who} have to pay back in all?",
    )
    year = d.step("the interest for one year is #", Money(sum_), "×", rate, "÷", 100)
    interest = d.step(f"in {years} years it adds up to #", years, "×", year)
    d.answer(f"the full amount is {d.step('together with the sum this is #', Money(sum_), '+', interest)}")


@template
def saving_for(d: Draw) -> None:
    have, job, fun, thing = d.whole(15, 90, 5), d.whole(18, 45), d.whole(4, 14), d.choice(*GADGETS)
    who = d.name()
    price = d.whole(150, 700, 10)
    weeks = ceil((price - have) / (job - fun))
    d.story(
        f"{who} wants a {thing} that costs {Money(price)} and already has {Money(have)}. Every week {who} "
        f"earns {Money(job)} and spends {Money(fun)} of it. After how many weeks is there enough money?"
    )
    short = d.step("the amount still missing is #", Money(price), "−", Money(have))
    gain = d.step("each week adds #", Money(job), "−", Money(fun))
    d.step(f"{weeks - 1} weeks add only #", weeks - 1, "×", gain)
    d.step(f"{weeks} weeks add #, which covers the missing {short}", weeks, "×", gain)
    d.need(weeks > 3)
    d.answer(f"{who} has enough after {weeks} weeks")


@template
def growing_savings(d: Draw) -> None:
    first, more, weeks, who = d.whole(2, 12), d.whole(1, 5), d.whole(6, 20), d.name()
    d.story(
        f"{who} puts {Money(first)} into a jar in the first week and {Money(more)} more each week than in "
        f"the week before. How much is in the jar after {weeks} weeks?"
    )
    steps = d.step("after the first week the payment rises # times", weeks, "−", 1)
    last = d.step("the last payment is #", Money(first), "+", steps, "×", Money(more))
    pair = d.step("the first and last payments together are #", Money(first), "+", last)
    total = d.step("the average payment is half of that, so the jar holds #", weeks, "×", pair, "÷", 2)
    d.answer(f"there are {total} in the jar".replace("are", "is"))


@template
def theatre_rows(d: Draw) -> None:
    first, more, rows, row, town = d.whole(12, 24), d.whole(2, 4), d.whole(10, 24), d.whole(5, 9), d.town()
    d.story(
        f"The open-air theatre of {town} has {first} seats in its first row, and each row behind has {more} "
        f"seats more than the one in front. There are {rows} rows. How many seats are in row {row}, and how "
        f"many are there altogether?"
    )
    seats = d.step(f"row {row} lies {row - 1} rows further back and has # seats", first, "+", row - 1, "×", more)
    last = d.step("the last row has # seats", first, "+", rows - 1, "×", more)
    pair = d.step("the first and last rows together have # seats", first, "+", last)
    total = d.step("pairing the rows in this way gives # seats", rows, "×", pair, "÷", 2)
    d.answer(f"row {row} has {seats} seats and the theatre has {total}")


# Counting and chance


@template
def handshakes(d: Draw) -> None:
    people, couples = d.whole(8, 40), d.whole(2, 4)
    club, town = d.choice(*CLUBS), d.town()
    d.story(
        f"At a meeting of the {club} in {town} there are {people} people, among them {couples} married "
        f"couples. Everyone shakes hands once with everyone else, except that nobody shakes hands with a "
        f"husband or wife. How many handshakes are there?"
    )
    others = d.step("each person could shake hands with # others", people, "−", 1)
    pairs = d.step("each handshake belongs to two people, which makes #", people, "×", others, "÷", 2)
    d.answer(f"there are {d.step('leaving out the couples gives #', pairs, '−', couples)} handshakes")


@template
def mixed_team(d: Draw) -> None:
    old, young, club = d.whole(4, 12), d.whole(4, 12), d.choice(*CLUBS)
    d.need(old != young)
    d.story(
        f"The {club} has {old} adults and {young} teenagers. It sends 2 adults and 2 teenagers to a meeting. "
        f"In how many ways can the four be chosen?"
    )
    first = d.step("two adults can be chosen in # ways", old, "×", old - 1, "÷", 2)
    second = d.step("two teenagers can be chosen in # ways", young, "×", young - 1, "÷", 2)
    total = d.step("every choice of adults goes with every choice of teenagers, giving # ways", first, "×", second)
    d.need(total == comb(old, 2) * comb(young, 2))
    d.answer(f"the four can be chosen in {total} ways")


@template
def lock_codes(d: Draw) -> None:
    digits, seconds, who = d.whole(5, 9), d.whole(2, 12), d.name()
    item = d.choice("bicycle lock", "diary", "toolbox", "garden gate", "locker", "cash box")
    d.story(
        f"The {item} of {who} opens with a code of three different digits, all taken from 1 to {digits}. The "
        f"code is forgotten, but {who} remembers that it starts with an odd digit. One try takes {seconds} "
        f"seconds. How long do all possible tries take?"
    )
    odd = (digits + 1) // 2
    d.say(f"there are {odd} odd digits for the first place")
    count = d.step("with two different digits after it, the codes number #", odd, "×", digits - 1, "×", digits - 2)
    time = d.step("trying all of them takes # seconds", count, "×", seconds)
    d.answer(f"all {count} codes take {d.step('in minutes this is #', time, '÷', 60)} minutes")


@template
def marble_bag(d: Draw) -> None:
    counts, (one, two, three) = [d.whole(2, 12) for _ in range(3)], d.sample(COLOURS, 3)
    who, thing = d.name(), d.choice("marbles", "beads", "buttons", "tokens", "balls")
    d.story(
        f"A bag holds {counts[0]} {one}, {counts[1]} {two} and {counts[2]} {three} {thing}. {who} draws one "
        f"without looking. What is the probability that it is not {one}?",
        f"{who} reaches into a bag of {thing}: {counts[0]} are {one}, {counts[1]} {two} and {counts[2]} "
        f"{three}. One is taken at random. Find the probability of any colour but {one}.",
    )
    total = d.step(f"the bag holds # {thing}", counts[0], "+", counts[1], "+", counts[2])
    good = d.step(f"those that are not {one} number #", counts[1], "+", counts[2])
    hit = d.step(f"the probability of {one} is #", Fraction(counts[0]), "÷", total)
    miss = d.step("the probability of another colour is #", 1, "−", hit)
    d.answer(f"{good} of the {total} {thing} are not {one}, so the probability is {miss}")


@template
def two_draws(d: Draw) -> None:
    good, bad, who = d.whole(3, 9), d.whole(2, 9), d.name()
    treat, other = d.sample(("mint", "cherry", "lemon", "honey", "toffee", "liquorice"), 2)
    d.story(
        f"A tin contains {good} {treat} sweets and {bad} {other} sweets. {who} takes two, one after the "
        f"other, without putting the first back. How likely is it that both are {treat}?"
    )
    total = d.step("the tin contains # sweets", good, "+", bad)
    first = d.step(f"the first is {treat} with probability #", Fraction(good), "÷", total)
    second = d.step(f"the second is then {treat} with probability #", Fraction(good - 1), "÷", total - 1)
    d.answer(f"the probability is {d.step('both happen with probability #', first, '×', second)}")


@template
def two_dice(d: Draw) -> None:
    faces, goal = d.choice(4, 6, 8), d.whole(3, 12)
    d.need(3 <= goal <= 2 * faces - 1)
    ways = [(first, goal - first) for first in range(1, faces + 1) if 1 <= goal - first <= faces]
    one, two, rolls = d.name(), d.name(), faces * faces * d.whole(2, 9)
    d.story(
        f"{one} and {two} each roll a fair die with {faces} faces numbered from 1 to {faces}. What is the "
        f"probability that the numbers add up to {goal}, and how often is this to be expected in {rolls} "
        f"rolls?"
    )
    every = d.step("the pairs of numbers are #, all equally likely", faces, "×", faces)
    d.say(f"the pairs with the sum {goal} are {', '.join(map(str, ways))}, which makes {len(ways)}")
    chance = d.step("the probability is #", Fraction(len(ways)), "÷", every)
    hits = d.step("the expected number is #", chance, "×", rolls)
    d.answer(f"the probability is {chance}, and about {hits} hits are to be expected")


@template
def both_neither(d: Draw) -> None:
    both, only, other, none = d.whole(3, 12), d.whole(4, 20), d.whole(4, 20), d.whole(2, 10)
    total, town = both + only + other + none, d.town()
    one, two = d.sample(
        ("football", "tennis", "chess", "the violin", "the drums", "hockey", "the flute", "volleyball"), 2
    )
    d.story(
        f"Of {total} pupils in a school in {town}, {both + only} play {one}, {both + other} play {two}, and "
        f"{both} play both. How many pupils play neither, and how many play exactly one of the two?"
    )
    some = d.step(
        "adding the players and taking the double ones off once gives #",
        both + only,
        "+",
        both + other,
        "−",
        both,
    )
    rest = d.step("those who play neither number #", total, "−", some)
    single = d.step("those who play exactly one number #", some, "−", both)
    d.answer(f"{rest} pupils play neither and {single} play exactly one")


# Whole numbers and leftovers


@template
def eggs_in_boxes(d: Draw) -> None:
    hens, laid, box, used = d.whole(12, 45), d.whole(4, 6), d.choice(6, 10, 12), d.whole(5, 30)
    who, price = d.name(), d.money(180, 480, 10)
    boxes = (hens * laid - used) // box
    d.story(
        f"{who} has {hens} hens, and each lays {laid} eggs a week. The family eats {used} of them, and the "
        f"rest are packed in boxes of {box} and sold at {price} a box. Only full boxes are sold. What does "
        f"{who} take in, and how many eggs stay behind?"
    )
    eggs = d.step("the hens lay # eggs", hens, "×", laid)
    left = d.step("the number to be packed is #", eggs, "−", used)
    packed = d.step(f"{boxes} full boxes take # eggs", boxes, "×", box)
    rest = d.step("the number that stay behind is #", left, "−", packed)
    d.answer(f"{who} takes in {d.step('the boxes bring #', boxes, '×', price)}, and {rest} egg(s) stay behind")


@template
def minibuses(d: Draw) -> None:
    pupils, adults, seats, cost = d.whole(60, 180), d.whole(5, 14), d.whole(8, 19), Money(d.whole(40, 90, 5))
    people, town = pupils + adults, d.town()
    buses = ceil(people / seats)
    d.need(people % seats)
    d.story(
        f"{pupils} pupils and {adults} teachers travel to {town} in minibuses with {seats} passenger seats. "
        f"Hiring a minibus costs {cost}. How many minibuses are needed, how many seats stay empty, and what "
        f"is the cost?"
    )
    total = d.step("the number of travellers is #", pupils, "+", adults)
    d.step(f"{buses - 1} minibuses seat only #", buses - 1, "×", seats)
    room = d.step(f"{buses} minibuses seat #", buses, "×", seats)
    free = d.step("the number of empty seats is #", room, "−", total)
    price = d.step("the hire costs #", buses, "×", cost)
    d.answer(f"{buses} minibuses are needed, with {free} empty seat(s), at a cost of {price}")


@template
def equal_bouquets(d: Draw) -> None:
    most, one, two = d.whole(3, 15), d.whole(2, 9), d.whole(2, 9)
    d.need(gcd(one, two) == 1)
    (first, second), who = (
        d.sample(("roses", "tulips", "daisies", "lilies", "carnations", "irises"), 2),
        d.name(),
    )
    d.story(
        f"A florist has {most * one} {first} and {most * two} {second} and wants to make as many identical "
        f"bouquets as possible, using every flower. How many bouquets can {who}, the florist, make, and how "
        f"many flowers are in each?"
    )
    d.say(f"the number of bouquets has to divide both {most * one} and {most * two}")
    d.step(f"with {most} bouquets, each gets # {first}", most * one, "÷", most)
    d.step(f"each also gets # {second}", most * two, "÷", most)
    d.say(f"as {one} and {two} have no common divisor above 1, more bouquets are impossible")
    d.answer(f"{who} makes {most} bouquets of {d.step('one bouquet has # flowers', one, '+', two)} flowers")


@template
def same_remainder(d: Draw) -> None:
    one, two = d.sample(range(4, 13), 2)
    rest, times = d.whole(1, 3), d.whole(1, 4)
    crowd = d.choice("scouts", "dancers", "musicians", "soldiers", "skaters")
    common, event = lcm(one, two), d.choice("a parade", "a show", "a rehearsal", "a summer camp")
    low = common * times + rest - d.whole(2, 3 + common // 4)
    high = common * times + rest + d.whole(1, 3 + common // 4)
    d.story(
        f"At {event} there are more than {low} but fewer than {high + 1} {crowd}. Lined up in rows of {one}, "
        f"{rest} of them are left over, and the same number are left over in rows of {two}. How many {crowd} "
        f"are there?"
    )
    d.say(f"without the {rest} left over, the number is divisible by both {one} and {two}, hence by {common}")
    full = d.step("the multiple of this number that fits is #", times, "×", common)
    total = d.step("with those left over there are #", full, "+", rest)
    d.need(sum(number % common == rest for number in range(low + 1, high + 1)) == 1)
    d.answer(f"there are {total} {crowd}")


@template
def heads_and_legs(d: Draw) -> None:
    birds, beasts, who = d.whole(5, 40), d.whole(4, 35), d.name()
    bird = d.choice("hens", "ducks", "geese", "turkeys")
    beast = d.choice("goats", "rabbits", "sheep", "cows", "pigs")
    heads, legs = birds + beasts, 2 * birds + 4 * beasts
    d.story(
        f"On {who}'s farm there are {bird} and {beast}. Counting them gives {heads} heads and {legs} legs. "
        f"How many {bird} and how many {beast} are there?",
        f"{who} looks over a yard full of {bird} and {beast} and counts {legs} legs under {heads} heads. "
        f"How many animals of each kind are in the yard?",
    )
    least = d.step("if every animal had two legs, there would be # legs", 2, "×", heads)
    extra = d.step("the legs that are too many number #", legs, "−", least)
    four = d.step(f"each of the {beast} adds two legs, so they number #", extra, "÷", 2)
    two = d.step(f"the {bird} number #", heads, "−", four)
    d.answer(f"there are {two} {bird} and {four} {beast}")


@template
def concert_tickets(d: Draw) -> None:
    adults, children, full, less = d.whole(30, 140), d.whole(20, 120), d.whole(12, 30), d.whole(3, 9)
    half, town = full - less, d.town()
    count, income = adults + children, adults * full + children * half
    d.story(
        f"For a concert in {town}, {count} tickets were sold. Adults paid {Money(full)} and children "
        f"{Money(half)}, and the takings were {Money(income)}. How many tickets of each kind were sold?"
    )
    least = d.step("with children's tickets alone, the takings would have been #", count, "×", Money(half))
    extra = d.step("the real takings are higher by #", Money(income), "−", least)
    gap = d.step("every adult's ticket accounts for #", Money(full), "−", Money(half))
    grown = d.step("the adults' tickets number #", extra, "÷", gap)
    rest = d.step("the others number #", count, "−", grown)
    d.answer(f"{grown} adults' and {rest} children's tickets were sold")


@template
def coins_in_a_jar(d: Draw) -> None:
    many, more, who, small, large = d.whole(6, 40), d.whole(3, 20), d.name(), Money(1, 5), Money(1, 2)
    total = Money(many * small + (many + more) * large)
    d.story(
        f"{who}'s jar contains coins of {small} and of {large} that are worth {total} in all. There are "
        f"{more} more of the large coins than of the small ones. How many coins of each kind are in the jar?"
    )
    extra = d.step("the additional large coins are worth #", more, "×", large)
    rest = d.step("the other coins come in pairs worth # together", total, "−", extra)
    pair = d.step("each pair is worth #", small, "+", large)
    few = d.step("the number of pairs is #", rest, "÷", pair)
    d.answer(f"the jar has {few} small and {d.step('the large coins number #', few, '+', more)} large coins")


@template
def consecutive_numbers(d: Draw) -> None:
    step, count, first = d.choice(1, 2), d.choice(3, 5), d.whole(5, 120)
    numbers = [first + step * index for index in range(count)]
    kind = "consecutive whole numbers" if step == 1 else f"consecutive {('even', 'odd')[first % 2]} numbers"
    where = d.choice(
        "pages of a diary",
        "raffle tickets",
        "house numbers in a street",
        "seats in a row",
        "lockers in a hall",
    )
    d.story(
        f"The numbers of {count} {where} are {kind}, and they add up to {sum(numbers)}. What are the "
        f"smallest and the largest of them?"
    )
    d.say(f"the numbers lie evenly around the middle one, which is the average of all {count}")
    middle = d.step("the middle number is #", sum(numbers), "÷", count)
    side = d.step("from the middle to either end the distance is #", count // 2, "×", step)
    low = d.step("the smallest number is #", middle, "−", side)
    d.answer(f"the smallest is {low} and the largest is {d.step('the largest number is #', middle, '+', side)}")


@template
def reversed_digits(d: Draw) -> None:
    tens, ones, who = d.whole(1, 8), d.whole(2, 9), d.name()
    d.need(ones > tens)
    item = d.choice("house number", "jersey number", "bus line", "seat number", "locker number", "room number")
    gap = 9 * (ones - tens)
    d.story(
        f"The {item} of {who} has two digits that add up to {tens + ones}. With its digits swapped it would "
        f"be {gap} larger. What is the {item}?"
    )
    d.say("swapping the digits changes a number by nine times the difference of its digits")
    differ = d.step("the digits differ by #", gap, "÷", 9)
    low = d.step("the sum less this difference is twice the smaller digit, #", tens + ones, "−", differ)
    small = d.step("the tens digit is therefore #", low, "÷", 2)
    large = d.step("the ones digit is #", small, "+", differ)
    d.answer(f"the {item} is {d.step('the number is #', 10, '×', small, '+', large)}")


@template
def trees_along_road(d: Draw) -> None:
    gap, gaps, each = d.whole(4, 15), d.whole(12, 60), d.whole(15, 60, 5)
    tree = d.choice("lime", "oak", "maple", "birch", "plum")
    length, here, there = gap * gaps, d.town(), d.town()
    d.story(
        f"Along both sides of the {length} m of road between the gates of {here} and {there}, {tree} trees "
        f"are planted {gap} m apart, from one end to the other. A young tree costs {Money(each)}. What do "
        f"all the trees cost?"
    )
    count = d.step("on one side there are # gaps", length, "÷", gap)
    side = d.step("a row has one tree more than gaps, which makes # trees", count, "+", 1)
    trees = d.step("both sides take # trees", 2, "×", side)
    d.answer(f"the trees cost {d.step('they cost #', trees, '×', Money(each))}")


# Everyday quantities


@template
def rope_and_units(d: Draw) -> None:
    metres, piece, count, knots = d.whole(4, 20), d.whole(25, 95, 5), d.whole(3, 12), d.whole(2, 6)
    who = d.name()
    used = count * (piece + knots)
    d.need(used < 100 * metres)
    d.story(
        f"{who} cuts {count} handles from a rope {metres} m long. Each handle is to be {piece} cm long after "
        f"knotting, and the knots take another {knots} cm of rope. How many metres of rope are left?"
    )
    each = d.step("each handle takes # cm", piece, "+", knots)
    taken = d.step("all the handles take # cm", count, "×", each)
    whole = d.step("the rope is # cm long", metres, "×", 100)
    left = d.step("the rope left over is # cm", whole, "−", taken)
    d.answer(f"{d.step('in metres this is #', left, '÷', 100)} m of rope are left")


@template
def map_scale(d: Draw) -> None:
    scale, first = d.choice(20000, 25000, 50000, 40000), Number(d.whole(8, 60), 4)
    second = Number(d.whole(8, 60), 4)
    pace, who, here, there, last = d.choice(4, 5), d.name(), d.town(), d.town(), d.town()
    d.story(
        f"On a map with the scale 1:{scale}, the path from {here} to {there} measures {first} cm and the "
        f"path from there to {last} measures {second} cm. {who} walks {pace} km an hour. How far is the "
        f"walk, and how many minutes does it take?"
    )
    paper = d.step("on the map the walk measures # cm", first, "+", second)
    real = d.step("in reality this is # cm", paper, "×", scale)
    way = d.step("in kilometres it is #", real, "÷", 100000)
    time = d.step("the walk takes # minutes", way, "×", 60, "÷", pace)
    d.answer(f"the walk is {way} km long and takes {time} minutes")


@template
def fuel_for_trip(d: Draw) -> None:
    use, distance, price = Number(d.whole(9, 18), 2), d.whole(120, 900, 20), d.money(140, 210, 5)
    friends, who, here, there = d.whole(2, 5), d.name(), d.town(), d.town()
    d.story(
        f"{who}'s car uses {use} litres of fuel per 100 km. The trip from {here} to {there} and back is "
        f"{distance} km in all, and fuel costs {price} per litre. {friends} people share the cost equally. "
        f"What does each pay?",
        f"For every 100 km, a car burns {use} litres at {price} a litre. {friends} people including {who} "
        f"go from {here} to {there} and back, {distance} km altogether, and split the fuel bill evenly. How "
        f"much is one share?",
    )
    litres = d.step("the trip takes # litres", distance, "×", use, "÷", 100)
    cost = d.step("the fuel costs #", litres, "×", price)
    d.answer(f"each person pays {d.step('one share is #', cost, '÷', friends)}")


@template
def recipe_scaled(d: Draw) -> None:
    serves, guests, grams, eggs = d.choice(4, 6, 8), d.whole(9, 40), d.whole(120, 480, 20), d.whole(2, 6)
    who = d.name()
    dish = d.choice("pancakes", "waffles", "noodle bake", "apple cake", "dumplings", "cheese tart")
    d.need(guests * eggs % serves == 0 and guests % serves)
    d.story(
        f"A recipe for {dish} serves {serves} people and calls for {grams} g of flour and {eggs} eggs. {who} "
        f"expects {guests} guests. How much flour and how many eggs are needed?"
    )
    one = d.step("one person needs # g of flour", grams, "÷", serves)
    flour = d.step("the guests need # g of flour", guests, "×", one)
    egg = d.step("the number of eggs is #", guests, "×", eggs, "÷", serves)
    d.answer(f"{who} needs {flour} g of flour and {egg} eggs")


@template
def scarce_ingredient(d: Draw) -> None:
    butter, sugar, flour = d.whole(40, 120, 10), d.whole(30, 90, 10), d.whole(100, 250, 25)
    stocks = [need * d.whole(4, 15) + d.whole(0, need - 1, 10) for need in (butter, sugar, flour)]
    counts = [stock // need for stock, need in zip(stocks, (butter, sugar, flour), strict=True)]
    d.need(len(set(counts)) == 3)
    who, treat = d.name(), d.choice("biscuits", "scones", "buns", "shortbread", "crumble bars")
    most = min(counts)
    d.story(
        f"One tray of {treat} takes {butter} g of butter, {sugar} g of sugar and {flour} g of flour. {who} "
        f"has {stocks[0]} g of butter, {stocks[1]} g of sugar and {stocks[2]} g of flour. How many full "
        f"trays can be baked, and what runs out first?"
    )
    rows = zip(("butter", "sugar", "flour"), (butter, sugar, flour), counts, stocks, strict=True)
    for what, need, count, stock in rows:
        d.step(
            f"{count} trays take # g of {what}, and the {stock} g in stock do not reach for another",
            count,
            "×",
            need,
        )
    first = ("butter", "sugar", "flour")[counts.index(most)]
    d.answer(f"{most} trays can be baked, because the {first} runs out first")


@template
def reading_speed(d: Draw) -> None:
    words, page, pages = d.whole(160, 260, 10), d.whole(240, 400, 20), d.whole(20, 90)
    quick = d.whole(20, 120, 20)
    slow_one, fast_one = d.name(), d.name()
    d.story(
        f"{slow_one} reads {words} words a minute and {fast_one} reads {quick} words a minute more. Both "
        f"read a chapter of {pages} pages with about {page} words on each. How many minutes sooner does "
        f"{fast_one} finish?"
    )
    text = d.step("the chapter has # words", pages, "×", page)
    pace = d.step(f"{fast_one} reads # words a minute", words, "+", quick)
    long = d.step(f"{slow_one} needs # minutes", text, "÷", words)
    short = d.step(f"{fast_one} needs # minutes", text, "÷", pace)
    d.need(isinstance(long, int))
    gap = d.step("the difference is # minutes", long, "−", short)
    d.answer(f"{fast_one} finishes {gap} minutes sooner")


@template
def calories_burned(d: Draw) -> None:
    run, swim, runs, swims = d.whole(8, 14), d.whole(6, 11), d.whole(20, 60, 5), d.whole(15, 50, 5)
    bar, count, who = d.whole(90, 240, 10), d.whole(2, 4), d.name()
    d.need(run * runs + swim * swims > bar * count)
    d.story(
        f"Running burns {run} kilocalories a minute for {who}, and swimming burns {swim}. On Saturday {who} "
        f"runs for {runs} minutes, swims for {swims} minutes, and eats {count} snack bars of {bar} "
        f"kilocalories each. By how much does the exercise exceed the snacks?"
    )
    first = d.step("the run burns # kilocalories", runs, "×", run)
    second = d.step("the swim burns # kilocalories", swims, "×", swim)
    burned = d.step("the exercise burns # kilocalories", first, "+", second)
    eaten = d.step("the bars supply # kilocalories", count, "×", bar)
    gap = d.step("the difference is #", burned, "−", eaten)
    d.answer(f"the exercise exceeds the snacks by {gap} kilocalories")


@template
def elevator_floors(d: Draw) -> None:
    start, up, down, top = d.whole(2, 9), d.whole(6, 20), d.whole(3, 24), d.whole(26, 40)
    each, who = Number(d.whole(28, 40), 10), d.name()
    d.need(start + up <= top and start + up - down >= -2)
    d.story(
        f"{who} gets into the lift of a tower with {top} floors on floor {start}. It goes up {up} floors, "
        f"then down {down} floors, where {who} gets out. Floors below the entrance have negative numbers, "
        f"and the entrance is floor 0. On which floor does the ride end, and how many metres has the lift "
        f"travelled if each floor is {each} m high?"
    )
    high = d.step("the highest floor reached is #", start, "+", up)
    end = d.step("the ride ends on floor #", high, "−", down)
    floors = d.step("the lift passes # floors in all", up, "+", down)
    way = d.step("the distance is # m", floors, "×", each)
    d.answer(f"{who} gets out on floor {show(end)}, and the lift has travelled {way} m")


@template
def two_candles(d: Draw) -> None:
    slow, fast, hours = d.whole(1, 3), d.whole(3, 6), d.whole(2, 6)
    end = d.whole(2, 10)
    d.need(slow < fast)
    thick, thin, who = end + slow * hours, end + fast * hours, d.name()
    d.story(
        f"{who} lights two candles at the same moment. The thick one is {thick} cm tall and burns down "
        f"{slow} cm an hour; the thin one is {thin} cm tall and burns down {fast} cm an hour. After how many "
        f"hours are they equally tall, and how tall is that?"
    )
    gap = d.step("at first the heights differ by # cm", thin, "−", thick)
    close = d.step("every hour the difference shrinks by # cm", fast, "−", slow)
    time = d.step("they are equal after # hours", gap, "÷", close)
    tall = d.step("their height is then # cm", thick, "−", time, "×", slow)
    d.answer(f"after {time} hours both candles are {tall} cm tall")


@template
def snail_in_well(d: Draw) -> None:
    up, down, days = d.whole(3, 9), d.whole(1, 6), d.whole(5, 20)
    d.need(up - down >= 1)
    deep, animal = up + (up - down) * (days - 1), d.choice("snail", "beetle", "frog", "caterpillar", "spider")
    d.story(
        f"A {animal} sits at the bottom of a well {deep} m deep. By day it climbs {up} m, and by night it "
        f"slips back {down} m. On which day does it reach the top?"
    )
    net = d.step("each full day and night gains # m", up, "−", down)
    before = d.step("on the last day the climb must start at # m or higher", deep, "−", up)
    nights = d.step("this height is reached after # days and nights", before, "÷", net)
    d.answer(f"the {animal} reaches the top on day {d.step('the top comes on day #', nights, '+', 1)}")


@template
def population_change(d: Draw) -> None:
    start, up, down, town = d.whole(2000, 20000, 500), d.whole(2, 20), d.whole(2, 15), d.town()
    d.story(
        f"{town} had {start} inhabitants. In one year the number grew by {up}%, and in the following year it "
        f"fell by {down}%. How many inhabitants are there now, and is that more or fewer than at the start?"
    )
    gain = d.step("the first year brings # people", start, *d.percent(up))
    peak = d.step("after it there are # inhabitants", start, "+", gain)
    lost = d.step("the second year takes away # people", peak, *d.percent(down))
    now = d.step("now there are # inhabitants", peak, "−", lost)
    d.need(isinstance(gain, int) and isinstance(lost, int) and now != start)
    change = d.step("compared with the start, the difference is #", max(now, start), "−", min(now, start))
    d.answer(f"{town} now has {now} inhabitants, {change} {'more' if now > start else 'fewer'} than at the start")


def word_problems(*, seed: int, per_template: int) -> list[WordProblem]:
    """Up to per_template different problems from every template, the same ones for the same seed."""
    problems = []
    for name, write in TEMPLATES.items():
        source, texts = random.Random(f"{seed} {name}"), {}
        # A template whose numbers are hard to come by may fall short, but never hangs.
        for _ in range(400 * per_template):
            if len(texts) == per_template:
                break
            draw = Draw(source)
            try:
                write(draw)
            except RedrawError:
                continue
            texts[draw.text()] = None
        problems += [WordProblem(name, text) for text in texts]
    return problems


def main() -> None:
    problems = word_problems(seed=0, per_template=60)
    size = sum(len(problem.text.encode()) for problem in problems)
    print(f"{len(TEMPLATES)} templates, {len(problems)} problems, {size} bytes")
    for problem in random.Random(0).sample(problems, 3):
        print(f"\n[{problem.template}]\n{problem.text}")


if __name__ == "__main__":
    main()
