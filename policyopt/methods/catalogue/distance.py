"""Distances: how near a sample lies to what each class looks like."""

from policyopt.methods.row import Row

ROWS = (
    Row("e2cm", "distance", "a class mean is near", "Görmez et al., E2CM", 2022,
        "IJCNN 2022, arXiv:2103.01148", "policyopt.methods.e2cm:E2cm",
        "Where exits have features but poor heads; between logits it seldom beats max_prob."),
    Row("de3_bert", "distance", "entropy is low and the answer's class prototype near",
        "He et al., DE3-BERT", 2024, "arXiv:2402.05948", "policyopt.methods.de3_bert:De3Bert",
        "Entropy with a second opinion; of most use on features of a well-spread space."),
    Row("trust_score", "distance", "training rows of the answer's class are nearer than of any other",
        "Jiang et al., To trust or not to trust a classifier", 2018, "NeurIPS 2018, arXiv:1805.11783",
        "policyopt.methods.trust_score:TrustScore",
        "Overconfident exits and few classes; dear where vectors are wide, blunt where rows are few.",
        seconds=(5.8, 8.4)),
)  # fmt: skip
