"""Find the sentences that are nearest to a question, with LlamaIndex over /v1/embeddings:

python llamaindex_search.py QUESTION SENTENCE...
"""

import os
import sys

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai import OpenAIEmbedding

from rt_embed import Client

URL = os.environ.get("RTVI_BACKEND", "http://localhost:8000")


def main(question: str, sentences: list[str]) -> None:
    with Client(URL) as client:
        model = client.models()[0].id
    embedding = OpenAIEmbedding(
        model_name=model, api_base=f"{URL}/v1", api_key=os.environ.get("RTEMBED_API_KEY", "none")
    )
    index = VectorStoreIndex([TextNode(text=sentence) for sentence in sentences], embed_model=embedding)
    for found in index.as_retriever(similarity_top_k=3).retrieve(question):
        print(f"{found.score:.3f}  {found.text}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
