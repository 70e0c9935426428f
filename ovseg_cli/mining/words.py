"""Words that decide what a caption's nouns are."""

from ..vocabulary.singular import word_set

STOP_WORDS = word_set(
    """
    angle area assortment back background backside base bottom bunch center centre close closeup
    close-up collection color colour corner couple day daytime direction display distance edge
    end foreground form front group half image kind left line lot middle midair mid-air moment
    nighttime number one order outside pair part photo photograph picture piece place portion
    portrait position right row scene section set setting shape shot side sight size sort spot
    stack state style thing something anything everything nothing someone somebody anyone
    everyone another other herself himself itself themselves time top type use variety view way
    inside interior exterior length height width attempt example fun morning afternoon evening
    night noon year today progress motion preparation process activity action event fashion
    manner means purpose reason
    """
)
"""Nouns that name no region: where something is, how much of it, or the picture itself."""

VERBS_FOR_NOUNS = word_set(
    """
    sit sitting standing pose posing lay laying lying look looking hold holding wear wearing eat
    eating ride riding walk walking fly flying play playing jump jumping graze grazing overlook
    overlooking cover covering show showing do feature
    """
)
"""Verbs that the perceptron takes for nouns in sentences that are none, such as captions."""

QUALIFIERS = word_set(
    """
    red blue green yellow purple pink brown black white gray grey silver gold golden beige tan
    blonde blond brunette colorful colored small large big little tiny huge tall short long old
    young new male female adult striped spotted checked plaid plain wooden plastic metal one two
    three four five six seven eight nine ten several many various different multiple same empty
    full open next top bottom front back side upper lower left right
    """
)
"""What stands before a noun and is none of its name; alone it is no noun either."""

ADJECTIVES = QUALIFIERS | word_set(
    """
    dark light bright pretty beautiful nice cute happy sad funny lovely clean clear dirty messy
    wet dry hot cold cool warm fresh ripe raw rotten delicious tasty healthy sunny cloudy rainy
    snowy foggy windy busy crowded quiet vintage antique modern traditional old-fashioned fancy
    elegant shiny rusty fluffy furry hairy fuzzy round square rectangular circular flat wide
    narrow thick thin deep shallow high low steep bare naked dead alive asleep awake ready
    available sleepy tired hungry angry calm lone single giant enormous massive miniature mini
    medium medium-sized heavy soft hard smooth rough sharp sweet salty spicy grassy sandy rocky
    muddy dusty hilly leafy bushy lush scenic urban rural public private outdoor indoor
    residential commercial professional electric electronic digital mechanical military foreign
    american chinese japanese asian african indian italian mexican french english british
    european ornate decorative artistic abstract colourful multicolored multi-colored
    black-and-white half-eaten well-lit well-dressed bald blind pregnant elderly middle-aged
    homemade gourmet vegetarian vegan whole entire complete main major minor certain similar
    unusual strange weird odd interesting serious silly playful wild domestic tropical exotic
    topless shirtless barefoot prominent misshapen floral eaten made done taken built shown seen
    worn torn broken grown cut
    """
)

_COMPOUNDS = """hot dog|stuffed animal|stuffed bear|stuffed toy|french fry|french toast|polar bear|
    brown bear|black bear|high chair|sour cream|ice cream|remote control|stop sign|electric guitar|
    potted plant|living room|dining room|dining table|dining area|sitting room|waiting room|
    parking lot|parking meter|parking garage|parking space|cutting board|chopping board|
    ironing board|baking sheet|baking pan|frying pan|mixing bowl|washing machine|swimming pool|
    shopping cart|shopping bag|sleeping bag|fishing pole|fishing boat|fishing rod|skating rink|
    changing table|rocking chair|rolling pin|serving tray|running shoe|sewing machine|
    cooking utensil|ceiling fan|double decker|double decker bus|bare foot|hot tub|sweet potato|
    dry erase|gaming system|clay court|
    teddy bear|wedding cake|wedding dress|skate board|snow board|motor bike|ski slope|ski pole|
    ski lift|ski boot|ski race|video game|stop light|folding chair"""
COMPOUNDS = frozenset(" ".join(compound.split()) for compound in _COMPOUNDS.split("|"))
"""Names whose first word is no noun, in the singular."""
