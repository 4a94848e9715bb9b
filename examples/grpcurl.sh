#!/bin/sh
# Every kind of call without Python, by reflection: sh examples/grpcurl.sh [IMAGE]
#
# Needs grpcurl, and a gateway at 127.0.0.1:50051 or where ROOST_GATEWAY says, with items stored. Without an image it
# takes one that `make demo` wrote.
set -eu

gateway=${ROOST_GATEWAY:-127.0.0.1:50051}
image=${1:-$(find data/digits/ -name '*.png' | sort | head -n 1)}
bytes=$(base64 <"$image" | tr -d '\n') # JSON carries bytes in base64
service=roost.v1.GatewayService

call() { # the request goes through a pipe: an image is longer than a command line may be
	printf '%s\n' "$2" | grpcurl -plaintext -d @ "$gateway" "$service/$1"
}

echo '# What is there' && grpcurl -plaintext "$gateway" list
grpcurl -plaintext "$gateway" describe roost.v1.SearchItemsRequest
echo '# Is it well' && grpcurl -plaintext "$gateway" grpc.health.v1.Health/Check
echo '# Models' && call ListModels '{}'
echo '# Clusters' && call ListClusters '{"page_size": 2}'
echo '# An embedding: little-endian float32 in base64' && call EmbedItems "{\"items\": [{\"image\": \"$bytes\"}]}"
echo '# Where it lies' && call AssignClusters "{\"items\": [{\"image\": \"$bytes\"}]}"
echo '# Store it' && call IngestItems "{\"item\": {\"id\": \"grpcurl\", \"image\": \"$bytes\", \"payload\": {\"from\": \"grpcurl\"}}}"
echo '# Its neighbours' && call SearchItems "{\"id\": \"grpcurl\", \"limit\": 2}"
echo '# Only those that are no anomalies' && call SearchItems "{\"item\": {\"image\": \"$bytes\"}, \"limit\": 2, \"filter\": {\"anomaly\": false}}"
echo '# List' && call ListItems '{"page_size": 1}'
echo '# Read' && call GetItem '{"id": "grpcurl"}'
echo '# Delete' && call DeleteItem '{"id": "grpcurl"}'
