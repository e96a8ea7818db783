"""How good a frozen encoder is: on its features, and on embeddings of images and texts."""

from ._result import Result as Result
from ._result import top_accuracy as top_accuracy
from .features import encode_source as encode_source
from .features import raw_pixels as raw_pixels
from .grid import retrieval_grid as retrieval_grid
from .knn import evaluate_knn as evaluate_knn
from .knn import knn_votes as knn_votes
from .linear_head import LinearHead as LinearHead
from .linear_head import fit_augmented as fit_augmented
from .linear_head import fit_lbfgs as fit_lbfgs
from .linear_head import fit_sgd as fit_sgd
from .linear_probe import evaluate_linear_probe as evaluate_linear_probe
from .pairs import Embedded as Embedded
from .pairs import Retrieval as Retrieval
from .pairs import Towers as Towers
from .pairs import embed_images as embed_images
from .pairs import evaluate_retrieval as evaluate_retrieval
from .pairs import evaluate_zero_shot as evaluate_zero_shot
from .retrieval import retrieval_chance as retrieval_chance
from .retrieval import retrieval_ranks as retrieval_ranks
from .retrieval import retrieval_recalls as retrieval_recalls
from .zero_shot import TEMPLATES as TEMPLATES
from .zero_shot import class_embeddings as class_embeddings
from .zero_shot import prompts as prompts
from .zero_shot import templates as templates
from .zero_shot import zero_shot_scores as zero_shot_scores
