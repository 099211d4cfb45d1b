"""The two losses that the demo and the figures compare: their names, and how their curves look."""

CROSS_ENTROPY, MC_LOSS = "cross-entropy", "cross-entropy + MC-Loss"

# Blue and vermilion of Okabe and Ito: told apart with every kind of colour vision; the lines differ too.
STYLES = {
    CROSS_ENTROPY: {"color": "#0072B2", "linestyle": "--"},
    MC_LOSS: {"color": "#D55E00", "linestyle": "-"},
}
