"""Embed a film and find the scene for each sentence: python first_steps.py FILM SENTENCE..."""

import sys

import numpy as np

from rt_embed import Client


def main(film: str, sentences: list[str]) -> None:
    with Client() as client:  # the service at RTVI_BACKEND, else http://localhost:8000
        chunks = sorted(client.embed_video(film, chunk_duration=5), key=lambda chunk: chunk.start)
        vectors = client.embed_texts(sentences)

    films = np.array([chunk.vector for chunk in chunks])
    texts = np.array(vectors)
    films /= np.linalg.norm(films, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    for sentence, scores in zip(sentences, texts @ films.T, strict=True):
        best = chunks[int(scores.argmax())]
        print(f"{sentence}: {best.start:.1f} s to {best.end:.1f} s, score {scores.max():.2f}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
