"""Find the sentence that is nearest to a question, with LangChain over /v1/embeddings:

    python langchain_search.py QUESTION SENTENCE...

`check_embedding_ctx_length=False` matters: LangChain would otherwise send OpenAI's token ids instead of text,
which mean nothing to another model; the service refuses them with 422.
"""

import os
import sys

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from rt_embed import Client

URL = os.environ.get("RTVI_BACKEND", "http://localhost:8000")


def main(question: str, sentences: list[str]) -> None:
    with Client(URL) as client:
        model = client.models()[0].id
    embeddings = OpenAIEmbeddings(
        model=model,
        base_url=f"{URL}/v1",
        api_key=SecretStr(os.environ.get("RTEMBED_API_KEY", "none")),
        check_embedding_ctx_length=False,
    )
    store = InMemoryVectorStore(embeddings)
    store.add_texts(sentences)
    for document, score in store.similarity_search_with_score(question, k=3):
        print(f"{score:.3f}  {document.page_content}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
