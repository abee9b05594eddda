"""What plans are written from: banks of phrases, the frames that they stand in, and words without meaning."""

PLAIN_WORDS = frozenset(
    """
    about above after again against also among because been before being below between both compare each every from
    have into keep kept leave less like make more most only other over same should than that their them then there
    these they this those through under until very were what when where which while will with without would your
    """.split()  # noqa: SIM905 - one a line would be sixty lines
)
"""Words without meaning, as the project's rule has them; they are never replaced."""

# A line is a thing, and has phrases that say it. Half of each bank's lines are an arm's.
BANKS = {
    "deed": """
    replace {t} by a learned one | learn {t} instead of fixing it by hand | turn {t} into a trainable quantity
    train without {t} | remove {t} from the pipeline altogether | drop {t} and look which part breaks
    warm up {t} in the first tenth | raise {t} slowly at the start | let {t} grow from nothing in the opening phase
    decay {t} towards the end | lower {t} gradually as training goes on | shrink {t} step by step
    tie {t} across layers | share {t} among all layers | use one common copy of {t} everywhere
    randomise {t} for each batch | sample {t} anew at each update | draw {t} afresh in every iteration
    double {t} | scale {t} up by a factor of two | set {t} twice as large
    halve {t} | cut {t} down to fifty percent | bring {t} to half its present value
    clip {t} at a fixed bound | cap {t} with a hard limit | truncate {t} beyond a ceiling
    average {t} along recent steps | smooth {t} with a running mean | apply exponential averaging to {t}
    normalise {t} per example | standardise {t} within a sample | rescale {t} to unit length
    choose {t} by cross-validation | tune {t} with a coarse grid | search {t} on withheld data
    predict {t} with a tiny network | infer {t} through a helper model | estimate {t} by an auxiliary head
    add noise to {t} | perturb {t} with gaussian jitter | disturb {t} by random amounts
    adapt {t} to the current loss | steer {t} by feedback from errors | couple {t} with observed progress
    freeze {t} past the first epoch | hold {t} constant once early training is done | stop updating {t} beyond a point
    """,
    "target": """
    the learning rate | the step size | the pace of the optimiser
    the weight decay | the penalty on large weights | the shrinkage term
    the batch size | the number of examples per update | the minibatch width
    the dropout probability | the share of silenced units | the random masking of activations
    the attention temperature | the sharpness of softmax scores | the scale inside attention
    the positional encoding | the position signal | the embedding of places in a sequence
    the noise schedule | the series of noise levels | the progression of variances
    the label smoothing | the softened targets | the blur upon answers
    the momentum coefficient | the memory of earlier gradients | the inertia parameter
    the gradient norm | the magnitude of backpropagated signals | the length of the gradient
    the token embeddings | the lookup table of symbols | the input vectors
    the residual connections | the skip paths | the identity shortcuts
    the hidden width | the number of units per layer | the channel count
    the initial weights | the starting parameters | the initialisation
    the loss weighting | the importance of single terms | the balance of objectives
    the output head | the final projection | the last linear layer
    the training order | the sequence of samples | the arrangement of examples
    the context length | the window of visible history | the span of past tokens
    the activation function | the nonlinearity | the response curve of units
    the sampling steps | the denoising iterations | the rounds of generation
    the data augmentation | the artificial variation of inputs | the distortion of examples
    the network ensemble | the committee of predictors | the set of independent copies
    the reporting share | the observation fraction | the part of cases seen
    the prior width | the spread of the prior | the regularising distribution
    """,
    "subject": """
    a small transformer | a compact attention model | a shallow self-attention network
    a denoising diffusion model | a diffusion sampler | a generative model that removes noise
    a recurrent network | a gated recurrent model | an LSTM of modest width
    a two-layer perceptron | a plain feedforward network | a small dense network
    a character language model | a byte-level text predictor | a next-character network
    a convolutional classifier | an image network of three blocks | a small vision model
    a compartment model | an epidemic simulator with four states | a mechanistic outbreak model
    a linear classifier | a logistic regression | a single-layer discriminator
    a variational autoencoder | a latent-variable encoder and decoder | an autoencoding generator
    a graph network | a message-passing model | a relational neural network
    """,
    "data": """
    modular addition | sums modulo a prime | clock arithmetic
    two moons and a circle | planar toy distributions | small point clouds
    Shakespeare plays | collected Elizabethan drama | old theatre scripts
    handwritten digits | scanned numerals | images of digits
    weekly case counts | surveillance reports | simulated outbreak series
    permutation products | group composition tables | products of permutations
    encyclopaedia text | a dump of articles | raw wiki pages
    tabular census records | rows of household surveys | demographic tables
    spoken commands | short audio clips | recorded keywords
    molecule strings | chemical line notation | encoded compounds
    """,
    "measure": """
    validation loss | cross-entropy on unseen data | the held-out objective
    updates until ninety percent accuracy | steps to generalisation | time to near-perfect answers
    divergence of drawn samples | distance among distributions | the estimated KL of samples
    calibration error | the gap separating confidence and accuracy | reliability of probabilities
    bits per character | compression of the test text | code length per symbol
    variance across seeds | stability of repeated runs | spread of replications
    wall-clock seconds | total computing cost | elapsed training duration
    accuracy on the test part | share of correct answers | classification success
    """,
    "reason": """
    late updates overshoot flat minima | the end of training bounces around a basin | final steps are too coarse
    early gradients are unreliable | the beginning is dominated by noise | first updates point anywhere
    capacity is wasted on memorising | the network stores examples, no rules | rote learning crowds out structure
    rare symbols are starved of signal | infrequent tokens get few updates | the tail of the vocabulary learns slowly
    layers learn at unequal speeds | depth creates mismatched timescales | lower blocks lag behind upper ones
    small errors accumulate along the chain | mistakes compound in sequence | inaccuracies add up with depth
    confidence runs ahead of knowledge | predictions are too certain | the model overstates what it knows
    most of the budget goes to easy cases | simple examples take the time | trivial inputs dominate each update
    """,
    "control": """
    the plain setup with matched parameters | an unchanged network of equal size | a size-matched reference
    a shuffled version of the change | the intervention applied at random | a scrambled variant
    a run with labels permuted | training upon random labels | targets in random order
    the best constant found by a sweep | a tuned fixed value | the strongest static choice
    equal compute for all arms | matched floating-point budgets | identical training cost
    a frozen copy of the first layer | an untrained bottom block | random features beneath
    """,
    "common": """
    Three seeds are run for each setting, and the mean is reported with its standard error.
    All further hyperparameters stay as in the baseline.
    Runs are compared at equal numbers of updates.
    The result counts as negative if the interval covers zero.
    Training curves are plotted next to the final numbers.
    Nothing else in the script is touched.
    The evaluation code remains frozen throughout.
    If the hypothesis fails, the report says so plainly.
    A first run uses the moderate strength, a second run the stronger one.
    Code changes stay within a few lines of the training script.
    Both the primary metric and the secondary ones are recorded.
    The experiment fits the time budget of a single machine.
    An ablation separates the contribution of every component.
    Seeds are shared with the baseline so that differences are paired.
    Finally, the findings are summarised in a short paper.
    Figures show all seeds as dots and the average as a bar.
    We expect a modest but consistent effect.
    The held-out data are never looked at during development.
    Failed runs are listed with the reason of failure.
    The write-up discusses limitations and related work.
    """,
}
# {i} is the deed with its target in one phrase.
FRAMES = {
    "title": ("{i}", "{i} in {subject}", "A study: {i}", "What happens on {data} if we {i}?"),
    "change": (
        "With {subject} trained on {data}, {i}.",
        "We {i}, for {subject} and {data}.",
        "On {data}, {i} of {subject}.",
    ),
    "measure": ("The outcome is {measure}.", "Quality is judged by {measure}.", "We track {measure}."),
    "reason": (
        "The idea behind it: {reason}.",
        "It rests on the suspicion that {reason}.",
        "This matters if {reason}.",
    ),
    "control": ("The control is {control}.", "Besides, {control} serves as reference."),
    "setting": ("Use strengths of {a} and {b}.", "Two variants are tried, {a} and then {b}."),
}
STRENGTHS = ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "2", "4", "8")
