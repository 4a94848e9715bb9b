"""Encoders: an image in, a feature vector out."""

from roost_training.encoders.build import build as build
from roost_training.encoders.build import check as check
from roost_training.encoders.build import names as names
from roost_training.encoders.embedder import WEIGHTS as WEIGHTS
from roost_training.encoders.embedder import Embedder as Embedder
from roost_training.encoders.embedder import restore as restore
from roost_training.encoders.embedder import save as save
from roost_training.encoders.encoder import Convolutional as Convolutional
from roost_training.encoders.encoder import Encoder as Encoder
from roost_training.encoders.vit import ViT as ViT
