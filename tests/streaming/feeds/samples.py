"""One small feed per text format: a good product, a second row with the same id, and a row without an id."""

RSS = '<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel>{}</channel></rss>'


SAMPLES = {
    "jsonl": '{"id": "A", "title": "Mug"}\n{"id": "A", "title": "Again"}\n{"title": "No id"}\n',
    "merchant-tsv": "id\ttitle\nA\tMug\nA\tAgain\n\tNo id\n",
    "merchant-csv": "id,title\nA,Mug\nA,Again\n,No id\n",
    "merchant-xml": RSS.format(
        "<item><g:id>A</g:id><title>Mug</title></item><item><g:id>A</g:id><title>Again</title></item>"
        "<item><title>No id</title></item>"
    ),
    "shopify-csv": "Handle,Title,Variant Price\nA,Mug,1\nB,Plate,1\nA,Again,1\n,No id,1\n",
}
